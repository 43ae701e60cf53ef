"""Alerts of the Prefect server: a night that fails, and a night that does not come.

python -m flows.alerts URL, against the server that PREFECT_API_URL names. URL takes a POST of {"text": …}, as most chat
services do. Run again, it replaces what it has made before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Set
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

BLOCK = "normaudit-alerts"
FAILED, MISSING = "normaudit: a night failed", "normaudit: no night"
A_NIGHT_AND_SOME = timedelta(hours=30)  # a night that takes six hours longer than the last one is no alarm
ENDED_BADLY = frozenset({"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"})
TOLD = "flow_run.name ~ ' ended as ' ~ flow_run.state.name ~ ': ' ~ (flow_run.state.message or '')"


def main() -> None:
    """Make the alerts on the named server."""
    parser = argparse.ArgumentParser(prog="python -m flows.alerts", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help='takes a POST of {"text": "…"}')
    args = parser.parse_args()
    if not os.environ.get("PREFECT_API_URL"):
        parser.error("PREFECT_API_URL names no server; alerts need one that stands")
    asyncio.run(make_alerts(args.url))


async def make_alerts(url: str) -> None:
    """Make the webhook and both automations, in place of those of the same names."""
    from prefect import get_client
    from prefect.blocks.webhook import Webhook

    block_id = await Webhook(url=url).save(BLOCK, overwrite=True)
    async with get_client() as client:
        for automation in _automations(block_id):
            for old in await client.read_automations_by_name(automation.name):
                await client.delete_automation(old.id)
            await client.create_automation(automation)


def _automations(block_id: UUID) -> list[AutomationCore]:
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore, Posture

    failed = CallWebhook(block_document_id=block_id, payload=f'{{"text": {{{{ ("normaudit: " ~ {TOLD}) | tojson }}}}}}')
    missing = CallWebhook(block_document_id=block_id, payload='{"text": "normaudit: no night has ended for 30 hours"}')
    return [
        AutomationCore(name=FAILED, trigger=_of_nights(ENDED_BADLY, Posture.Reactive, timedelta(0)), actions=[failed]),
        AutomationCore(
            name=MISSING,
            trigger=_of_nights({"prefect.flow-run.Completed"}, Posture.Proactive, A_NIGHT_AND_SOME),
            actions=[missing],
        ),
    ]


def _of_nights(events: Set[str], posture: Posture, within: timedelta) -> EventTrigger:
    """Return what fires when one of these events comes from a nightly run, or none does."""
    from prefect.events.schemas.automations import EventTrigger
    from prefect.events.schemas.events import ResourceSpecification

    return EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": "deployment", "prefect.resource.name": "nightly"}
        ),
        expect=set(events),
        posture=posture,
        threshold=1,
        within=within,
    )


if __name__ == "__main__":
    main()
