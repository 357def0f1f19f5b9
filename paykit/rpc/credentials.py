"""Mutual TLS from PEM files, for both ends."""

from __future__ import annotations

from pathlib import Path

import grpc

from paykit.errors import ConfigurationError
from paykit.settings import TlsSettings


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate signed by ``ca_file``; ConfigurationError names a missing file."""
    pair = (_read(tls.key_file, "key_file"), _read(tls.cert_file, "cert_file"))
    return grpc.ssl_server_credentials(
        [pair], root_certificates=_read(tls.ca_file, "ca_file"), require_client_auth=True
    )


def channel_credentials(tls: TlsSettings) -> grpc.ChannelCredentials:
    """Credentials that show our own certificate and demand one signed by ``ca_file``."""
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file, "ca_file"),
        private_key=_read(tls.key_file, "key_file"),
        certificate_chain=_read(tls.cert_file, "cert_file"),
    )


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"tls.{key} {path}: {error.strerror}") from None
