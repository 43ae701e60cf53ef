"""What tests of the reading plan share: running one on bytes in hand, and checkpoints in several files."""

import json
import struct

from tasks.core.errors import AuditError, NotFound
from tasks.core.memory import Memory
from tasks.core.reading import ReadOptions, recognise_or_read
from tasks.core.records import Chunk, Listing, RepoFile
from tests.checkpoints import safetensors_file

INDEX = "model.safetensors.index.json"


def run(plan, answer):
    """Run a plan; return its result and the fetches it made, one list a round."""
    rounds = []
    try:
        fetches = next(plan)
        while True:
            rounds.append(fetches)
            fetches = plan.send(tuple(answer(fetch) for fetch in fetches))
    except StopIteration as done:
        return done.value, rounds


def follow(files, config=None, memory=None, known=(), claims=None, sha256=None, parameter_count=None, **options):
    """Read the checkpoint in these files; return the result and the fetches, one list a round.

    A file that is an AuditError is answered by it. Claims are what the Hub tells of the shards' headers, if anything.
    """
    listing = Listing(
        "org/name",
        "0" * 40,
        tuple(RepoFile(path) for path in files),
        config,
        parameter_count=parameter_count,
    )
    plan = recognise_or_read(listing, ReadOptions(**options), memory or Memory(), known)
    return run(plan, lambda fetch: answer(files, fetch, claims, sha256))


def answer(files, fetch, claims=None, sha256=None):
    """Answer as a Hub would that redirects to a host of files."""
    if fetch.of == "claims":
        return NotFound("no digest of headers here") if claims is None else Chunk(claims, len(claims))
    if fetch.path not in files:
        return NotFound(f"org/name/{fetch.path}: no such file")
    data = files[fetch.path]
    if isinstance(data, AuditError):
        return data
    if sha256 in fetch.unless:
        return Chunk(b"", len(data), sha256)
    return Chunk(data[fetch.start : fetch.stop], len(data), sha256)


def sharded(tensors, at):
    """Return the files of a checkpoint in two shards, the first with so many of the tensors, and an index."""
    names = list(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:at], "model-00002-of-00002.safetensors": names[at:]}
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name in part}}
    files = {shard: safetensors_file({name: tensors[name] for name in part}) for shard, part in shards.items()}
    return {INDEX: json.dumps(index).encode(), **files}


def header_of(data):
    """Return a safetensors file's header as JSON says it."""
    return json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])


def claims_of(files):
    """Return what an honest Hub tells of the headers of these files' shards."""
    headers = {path: header_of(data) for path, data in files.items() if path.endswith(".safetensors")}
    return {"index": {"metadata": {}}, "headers": headers}


def main_norm(reading):
    """Return the main final norm of a reading."""
    [main] = [read for read in reading.norms if read.norm.is_main]
    return main
