"""The only module that talks to the Hugging Face Hub.

options   how to talk to it, and what talking cost
entries   the Hub's JSON about one repo, parsed into a `Listing`
listing   repos page by page, over huggingface_hub's own session
client    bytes of files, over aiohttp
answers   what one HTTP answer means: bytes, or which error
pace      how fast to ask
quota     how long a number of requests takes
proxies   through which proxy
retry     how often, and after what wait
"""

from tasks.hub.client import Hub
from tasks.hub.listing import ListingQuery, list_models
from tasks.hub.options import HubOptions, Learned, Meter, options_from_environment
from tasks.hub.pace import Pace
from tasks.hub.quota import Quota

__all__ = [
    "Hub",
    "HubOptions",
    "Learned",
    "ListingQuery",
    "Meter",
    "Pace",
    "Quota",
    "list_models",
    "options_from_environment",
]
