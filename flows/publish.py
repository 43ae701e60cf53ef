"""The flow that publishes a store's leaderboard again, between nights."""

from __future__ import annotations

from prefect import flow

from flows.scheduled import Settings
from tasks import steps


@flow(name="publish", flow_run_name="{settings.store_location}", persist_result=False)
async def publish(settings: Settings) -> str:
    """Write the site from the database as it is, and return where it lies.

    Raises:
        StoreError: the database cannot be read, or the site not be written.
    """
    return str(await steps.publish(settings.store_location, settings.hub_url))
