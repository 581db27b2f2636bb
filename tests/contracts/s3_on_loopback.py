"""Enough of the S3 protocol on 127.0.0.1 to run the contract against it: one bucket, no signatures checked."""

import contextlib
import http.server
import threading
import urllib.parse
from xml.etree import ElementTree
from xml.sax.saxutils import escape

DATE = "2026-01-01T00:00:00.000Z"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _key(self):
        path = urllib.parse.urlsplit(self.path).path
        return urllib.parse.unquote(path).partition("/bucket")[2].lstrip("/")

    def _reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.blobs[self._key()] = data
        self._reply(200, ETag='"1"')

    def do_GET(self):
        key = self._key()
        if not key:
            return self._list()
        if key not in self.server.blobs:
            return self._reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data = self.server.blobs[key]
        return self._reply(200, data, ETag='"1"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    do_HEAD = do_GET

    def _list(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        prefix = query.get("prefix", [""])[0]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{DATE}</LastModified><ETag>1</ETag>"
            f"<Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.server.blobs.items())
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        self._reply(200, body.encode())

    def do_POST(self):
        """Delete objects: the bucket's address with `?delete`, keys in the body."""
        body = ElementTree.fromstring(self.rfile.read(int(self.headers["Content-Length"])))
        keys = [element.text for element in body.iter() if element.tag.endswith("Key")]
        for key in keys:
            self.server.blobs.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._reply(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())


@contextlib.contextmanager
def s3_on_loopback():
    """The options with which ObjectStore("s3://bucket", ...) finds this server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.blobs = {}
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield {
            "endpoint": f"http://127.0.0.1:{server.server_port}",
            "access_key_id": "none",
            "secret_access_key": "none",
            "region": "us-east-1",
            "client_options": {"allow_http": True},
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
