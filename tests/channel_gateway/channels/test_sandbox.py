"""What the sandbox channel alone does; what every channel does is in the contract suite."""

from __future__ import annotations

import msgspec
import pytest

from tests.channel_gateway.channels.bench import opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.rig import Inbox
from tests.channel_gateway.channels.sandbox_rig import SandboxRig


@pytest.mark.parametrize(("code", "reason"), [("no_funds", "NO_FUNDS"), ("No-Funds", "PROVIDER_DECLINED")])
async def test_a_failure_code_is_the_reason_and_one_of_strange_form_a_plain_one(
    liar: Liar, tmp_path_factory: pytest.TempPathFactory, code: str, reason: str
) -> None:
    rig = SandboxRig(tmp_path_factory.mktemp("sandbox"), Inbox())
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order()
        truth = rig.truth(order, "CHARGE")
        said = msgspec.json.decode(truth.body) | {"status": "failed", "failure_code": code}
        liar.answer = msgspec.structs.replace(truth, body=msgspec.json.encode(said))
        assert (await bench.live.charge(order)).failure_reason == reason
