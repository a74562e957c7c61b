"""A real S3 server on this machine (moto)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

BUCKET = "shop"


@contextmanager
def s3_server(objects: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the address of a server with a bucket of objects; the environment leads to it."""
    from moto.server import ThreadedMotoServer

    from tailorbird.cluster import storage

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                "AWS_ACCESS_KEY_ID": "somebody",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }.items():
                patch.setenv(name, value)
            patch.delenv("AWS_PROFILE", raising=False)
            storage._opened.cache_clear()
            store, _ = storage.file_system(f"s3://{BUCKET}")
            from pyarrow import fs

            options = {"allow_bucket_creation": True, "force_virtual_addressing": False}
            maker = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], **options)
            maker.create_dir(BUCKET)
            for name, content in objects.items():
                with store.open_output_stream(f"{BUCKET}/{name}") as file:
                    file.write(content)
            yield os.environ["AWS_ENDPOINT_URL"]
    finally:
        storage._opened.cache_clear()
        server.stop()
