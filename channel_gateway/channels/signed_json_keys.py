"""The keys of the signature schemes: read once at start, from secrets or PEM."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from paykit.errors import ConfigurationError

RSA_BITS_MIN = 2048
HMAC_BYTES_MIN = 16


class Scheme(StrEnum):
    """How a signature is made: a shared secret, or a pair of keys (RSA with PKCS #1 v1.5, Ed25519)."""

    HMAC_SHA256 = "hmac_sha256"
    RSA_SHA256 = "rsa_sha256"
    ED25519 = "ed25519"


class SecretEncoding(StrEnum):
    """How the secret of an HMAC is written."""

    TEXT = "text"
    HEX = "hex"
    BASE64 = "base64"


class SignatureEncoding(StrEnum):
    """How a signature is written."""

    HEX = "hex"
    BASE64 = "base64"


Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], bool]  # (what is signed, signature)


def signing_key(scheme: Scheme, secret: str, encoding: SecretEncoding, key: str) -> Sign:
    """What signs; ConfigurationError names ``key``, where the secret is set, if it is none for the scheme."""
    if scheme is Scheme.HMAC_SHA256:
        raw = _hmac_secret(secret, encoding, key)
        return lambda data: hmac.digest(raw, data, hashlib.sha256)
    try:
        private = serialization.load_pem_private_key(secret.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{key}: not a private key in PEM without a password") from None
    if scheme is Scheme.RSA_SHA256 and isinstance(private, RSAPrivateKey) and private.key_size >= RSA_BITS_MIN:
        rsa = private
        return lambda data: rsa.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if scheme is Scheme.ED25519 and isinstance(private, Ed25519PrivateKey):
        return private.sign
    raise ConfigurationError(f"{key}: {_wanted(scheme)}")


def verifying_key(scheme: Scheme, secret: str, encoding: SecretEncoding, key: str) -> Verify:
    """What verifies; as ``signing_key``, with the public key of a pair."""
    if scheme is Scheme.HMAC_SHA256:
        raw = _hmac_secret(secret, encoding, key)
        return lambda data, signature: hmac.compare_digest(hmac.digest(raw, data, hashlib.sha256), signature)
    try:
        public = serialization.load_pem_public_key(secret.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{key}: not a public key in PEM") from None
    if scheme is Scheme.RSA_SHA256 and isinstance(public, RSAPublicKey) and public.key_size >= RSA_BITS_MIN:
        rsa = public
        return lambda data, signature: _holds(lambda: rsa.verify(signature, data, padding.PKCS1v15(), hashes.SHA256()))
    if scheme is Scheme.ED25519 and isinstance(public, Ed25519PublicKey):
        ed25519 = public
        return lambda data, signature: _holds(lambda: ed25519.verify(signature, data))
    raise ConfigurationError(f"{key}: {_wanted(scheme)}")


def encode_signature(signature: bytes, encoding: SignatureEncoding) -> str:
    """As text."""
    return signature.hex() if encoding is SignatureEncoding.HEX else base64.b64encode(signature).decode()


def decode_signature(text: str, encoding: SignatureEncoding) -> bytes:
    """The bytes; empty, which no scheme makes, where ``text`` is not so encoded."""
    try:
        return binascii.unhexlify(text) if encoding is SignatureEncoding.HEX else base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _holds(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidSignature:
        return False
    return True


def _hmac_secret(secret: str, encoding: SecretEncoding, key: str) -> bytes:
    try:
        if encoding is SecretEncoding.HEX:
            raw = binascii.unhexlify(secret)
        elif encoding is SecretEncoding.BASE64:
            raw = base64.b64decode(secret, validate=True)
        else:
            raw = secret.encode()
    except ValueError:
        raise ConfigurationError(f"{key}: not in {encoding.value}") from None
    if len(raw) < HMAC_BYTES_MIN:
        raise ConfigurationError(f"{key}: a secret needs {HMAC_BYTES_MIN} bytes at least")
    return raw


def _wanted(scheme: Scheme) -> str:
    return "not an Ed25519 key" if scheme is Scheme.ED25519 else f"not an RSA key of {RSA_BITS_MIN} bits at least"
