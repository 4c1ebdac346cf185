"""Costs of an object store, measured on moto"""

import logging
import os
import uuid

from benchmarks.measure import seconds


def object_store(count: int) -> dict[str, float]:
    """Measure the wall-clock seconds to put, get and list a run's files in an S3 bucket.

    The server is moto, which is written in Python: most of the measured time is its own.
    """
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # otherwise it logs a line per request
    server.start()
    try:
        host, port = server.get_host_and_port()
        files = s3fs.S3FileSystem(
            endpoint_url=f"http://{host}:{port}", key="someone", secret="a-secret", use_listings_cache=False,
            skip_instance_cache=True,
        )  # fmt: skip
        bucket = f"overheads-{uuid.uuid4().hex}"  # moto servers of one process share their buckets
        files.mkdir(bucket)
        content = os.urandom(100_000)
        names = iter(range(10**6))
        put = seconds(lambda: files.pipe_file(f"{bucket}/runs/{next(names)}/history.jsonl", content), count)
        get = seconds(lambda: files.cat_file(f"{bucket}/runs/0/history.jsonl"), count)
        listing = seconds(lambda: files.ls(f"{bucket}/runs/0", refresh=True), max(5, count // 4))
    finally:
        server.stop()
    return {"put_s": put, "get_s": get, "list_s": listing}
