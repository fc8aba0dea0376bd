"""A small web on the loopback interface: a host that serves images and misbehaves, and a search service behind a proxy.

Nothing here replaces a part of the library. The library's own client talks to these servers over real sockets.
    python tests/webdouble.py FOLDER [--ports 8 --latency .05 .3 --fail .02]     serves a folder until it is stopped
"""
import argparse, asyncio, functools, json, random, socket, ssl, struct, threading, time, zlib
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

HTML = b'<!DOCTYPE html><html><title>404 Not Found</title><body>No bear here.</body></html>'

def head(status=200, length=None, **headers):
    "The first lines of an HTTP/1.1 answer"
    lines = [f'HTTP/1.1 {status} {HTTPStatus(status).phrase}'] + [f'{k.replace("_", "-")}: {v}' for k, v in headers.items()]
    if length is not None: lines.append(f'Content-Length: {length}')
    return ('\r\n'.join(lines) + '\r\n\r\n').encode()

def whole(body, status=200, **headers): return head(status, len(body), **headers) + body

@functools.lru_cache
def gzip_bomb(megabytes=64):
    "A few dozen kilobytes that unpack to `megabytes`"
    z = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b''.join(z.compress(bytes(2**20)) for _ in range(megabytes)) + z.flush()

class Web:
    "A host that serves `files` (path → bytes) and, under the names below, misbehaves"
    def __init__(self, files=None, latency=(0, 0), fail=0, ports=1, seed=0, delay=2.):
        self.files, self.latency, self.fail, self.n_ports, self.delay = dict(files or {}), latency, fail, ports, delay
        self.asked, self.sent, self.rng = Counter(), Counter(), random.Random(seed)
        self.busy, self.most = Counter(), Counter()  # requests under way at each port and at 'all', connections 'open', and the most there ever were

    def __enter__(self):
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), daemon=True)
        self.thread.start(); ready.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set); self.thread.join(10)

    @property
    def port(self): return self.ports[0]
    @property
    def places(self): return {f'127.0.0.1:{o}' for o in self.ports}

    def url(self, path, port=None): return f'http://127.0.0.1:{port or self.port}/{path.lstrip("/")}'

    async def _main(self, ready):
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        servers = [await asyncio.start_server(self._client, '127.0.0.1', 0) for _ in range(self.n_ports)]
        self.ports = [o.sockets[0].getsockname()[1] for o in servers]
        ready.set(); await self.stop.wait()
        for o in servers: o.close()
        for o in asyncio.all_tasks() - {asyncio.current_task()}: o.cancel()

    async def _client(self, reader, writer):
        self.busy['open'] += 1; self.most['open'] = max(self.most['open'], self.busy['open'])
        try:
            while await self._one(reader, writer): await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError): pass
        finally: writer.close(); self.busy['open'] -= 1

    async def _one(self, reader, writer):
        "Answer one request; False closes the connection"
        request = await reader.readuntil(b'\r\n\r\n')
        target = request.split(b' ', 2)[1].decode()
        path = unquote(urlsplit(target).path)
        self.asked[target] += 1
        port = writer.get_extra_info('sockname')[1]
        for o in (port, 'all'): self.busy[o] += 1; self.most[o] = max(self.most[o], self.busy[o])
        try: return await self._answer(target, path, writer)
        finally:
            for o in (port, 'all'): self.busy[o] -= 1

    async def _answer(self, target, path, writer):
        if self.latency[1]: await asyncio.sleep(self.rng.uniform(*self.latency))
        name = path.strip('/').split('/')[0]
        act = getattr(self, f'do_{name}', None)
        if act: return await act(target, writer)
        body = self.files.get(target.lstrip('/')) or self.files.get(path.lstrip('/'))
        writer.write(whole(HTML, 404, Content_Type='text/html') if body is None else whole(body, Content_Type='image/jpeg'))
        if body is not None: await writer.drain(); self.sent[target] += 1
        return True

    # Each of these is one way in which a real host disappoints
    def image(self): return next(iter(self.files.values()))
    async def do_slow(self, target, w): await asyncio.sleep(self.delay); w.write(whole(self.image())); return True
    async def do_stall(self, target, w): w.write(head(200, len(self.image())) + self.image()[:200]); await w.drain(); await asyncio.sleep(600)
    async def do_silent(self, target, w): await asyncio.sleep(600)
    async def do_drip(self, target, w):
        w.write(head(200, len(self.image())))
        for b in self.image(): w.write(bytes([b])); await w.drain(); await asyncio.sleep(.2)
    async def do_reset(self, target, w):
        w.write(head(200, len(self.image())) + self.image()[:len(self.image())//2]); await w.drain()
        w.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        w.transport.abort()
    async def do_long(self, target, w): w.write(head(200, len(self.image()) + 1000) + self.image()); await w.drain()   # promises more than it sends
    async def do_short(self, target, w): w.write(head(200, len(self.image())//2) + self.image()); await w.drain()      # promises less
    async def do_endless(self, target, w):
        w.write(head(200))
        while True: w.write(b'\xff\xd8\xff' + bytes(2**16)); await w.drain()
    async def do_bomb(self, target, w): w.write(whole(await asyncio.to_thread(gzip_bomb), Content_Encoding='gzip')); return True
    async def do_zipped(self, target, w):
        z = zlib.compressobj(9, zlib.DEFLATED, 31); w.write(whole(z.compress(self.image()) + z.flush(), Content_Encoding='gzip')); return True
    async def do_brotli(self, target, w): w.write(whole(b'\x8b\x02\x80', Content_Encoding='br')); return True
    async def do_html(self, target, w): w.write(whole(HTML, Content_Type='image/jpeg')); return True
    async def do_flaky(self, target, w):
        w.write(whole(self.image()) if self.asked[target] > 1 else whole(b'later', 503)); return True
    async def do_busy(self, target, w): w.write(whole(b'busy', 503)); return True
    async def do_loop(self, target, w): w.write(whole(b'', 302, Location=target)); return True
    async def do_chain(self, target, w):
        n = int(urlsplit(target).path.split('/')[-1]); w.write(whole(b'', 301, Location=f'/chain/{n-1}' if n else '/' + next(iter(self.files)))); return True
    async def do_to(self, target, w): w.write(whole(b'', 302, Location=parse_qs(urlsplit(target).query)['url'][0])); return True
    async def do_garbage(self, target, w): w.write(b'SSH-2.0-OpenSSH_9.2\r\n'); await w.drain()
    async def do_status(self, target, w): w.write(whole(HTML, int(urlsplit(target).path.split('/')[-1]))); return True
    async def do_log(self, target, w): w.write(whole(json.dumps(dict(asked=self.asked, sent=self.sent)).encode())); return True

def certificate(folder, names=('duckduckgo.com', 'www.bing.com')):
    "Make a test authority and a certificate for `names`; gives the paths of both"
    import datetime as dt
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    def name(o): return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, o)])
    def build(subject, issuer, key, signer, *extensions):
        now = dt.datetime.now(dt.timezone.utc)
        b = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key()).serial_number(x509.random_serial_number())
             .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30)))
        for o, critical in extensions: b = b.add_extension(o, critical)
        return b.sign(signer, hashes.SHA256())
    pem, ca_key, key, ca_name = serialization.Encoding.PEM, ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()), name('loopback test authority')
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = build(ca_name, ca_name, ca_key, ca_key, (x509.BasicConstraints(True, 0), True), (identifier, False),
               (x509.KeyUsage(True, False, False, False, False, True, True, False, False), True))
    leaf = build(name(names[0]), ca_name, key, ca_key, (x509.BasicConstraints(False, None), True), (x509.SubjectAlternativeName([x509.DNSName(o) for o in names]), False),
                 (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False), (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False))
    ca_path, path = Path(folder)/'ca.pem', Path(folder)/'server.pem'
    ca_path.write_bytes(ca.public_bytes(pem))
    path.write_bytes(leaf.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return ca_path, path

def duck_page(hits):
    return json.dumps(dict(results=[dict(title=o['title'], image=o['url'], thumbnail=o['url'], url=o['page'], width=256, height=256, source='Bing') for o in hits])).encode()

def bing_page(hits):
    from html import escape
    rows = [f'''<div><div class='imgpt'><a class="iusc" m="{escape(json.dumps(dict(t=o['title'], murl=o['url'], turl=o['url'], purl=o['page'])), quote=True)}">x</a>
<div class='img_info'><span class='nowrap'>256 x 256 jpeg</span></div></div><div class='infopt'><div class='lnkw'><a>bears.example</a></div></div></div>''' for o in hits]
    return f"<html><body>{''.join(rows)}</body></html>".encode()

class Search:
    """The search service: a CONNECT proxy that answers as duckduckgo.com and www.bing.com would.

    `find(query)` gives all hits of a query, as dicts with url, page, title. `moods` is a list that is used up, an answer each:
    'ok', 'empty', 'malformed', 'hang', 'cut', or a status such as '202', '403', '429'. When it is used up the mood is `then`."""
    def __init__(self, find, folder, moods=(), then='ok', page=20, hang=3.):
        self.find, self.moods, self.then, self.page, self.hang, self.asked = find, list(moods), then, page, hang, []
        self.ca, pem = certificate(folder)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); self.tls.load_cert_chain(pem); self.tls.set_alpn_protocols(['http/1.1'])

    def __enter__(self):
        self.listener = socket.create_server(('127.0.0.1', 0)); self.listener.settimeout(.2); self.open = True
        self.proxy = f'http://127.0.0.1:{self.listener.getsockname()[1]}'
        self.thread = threading.Thread(target=self._accept, daemon=True); self.thread.start()
        return self

    def __exit__(self, *_): self.open = False; self.thread.join(5); self.listener.close()
    @property
    def settings(self): return dict(proxy=self.proxy, verify=str(self.ca))

    def _accept(self):
        while self.open:
            try: sock = self.listener.accept()[0]
            except TimeoutError: continue
            threading.Thread(target=self._tunnel, args=(sock,), daemon=True).start()

    def _tunnel(self, sock):
        try:
            with sock:
                sock.settimeout(20); host = self._read(sock).split()[1].split(b':')[0].decode()
                sock.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
                with self.tls.wrap_socket(sock, server_side=True) as s:
                    while request := self._read(s): self._answer(s, host, request.split()[1].decode())
        except (OSError, IndexError): pass

    def _read(self, sock):
        data = b''
        while b'\r\n\r\n' not in data:
            chunk = sock.recv(65536)
            if not chunk: return b''
            data += chunk
        return data

    def _answer(self, sock, host, target):
        q = {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        if host == 'duckduckgo.com' and not target.startswith('/i.js'): return sock.sendall(whole(b'<html><script>vqd="4-123456";</script></html>'))
        mood = self.moods.pop(0) if self.moods else self.then
        start = int(q.get('s', 0)) // 100 * self.page if 's' in q else (int(q.get('first', 1)) - 1) // 35 * self.page
        self.asked.append((host, q['q'], start, mood, time.monotonic()))
        if mood == 'hang': time.sleep(self.hang); return
        if mood == 'cut': raise ConnectionError('cut')
        if mood.isdigit(): return sock.sendall(whole(b'slow down', int(mood)))
        hits = [] if mood == 'empty' else self.find(q['q'])[start:start + self.page]
        body = b'{"results": [{"image":' if mood == 'malformed' else duck_page(hits) if host == 'duckduckgo.com' else bing_page(hits)
        sock.sendall(whole(body, Content_Type='text/html'))

def main():
    p = argparse.ArgumentParser(description='Serve a folder of images on the loopback interface')
    p.add_argument('folder'); p.add_argument('--ports', type=int, default=1); p.add_argument('--latency', type=float, nargs=2, default=(0, 0))
    a = p.parse_args()
    files = {quote(str(o.relative_to(a.folder))): o.read_bytes() for o in sorted(Path(a.folder).rglob('*')) if o.is_file()}
    with Web(files, a.latency, ports=a.ports) as web:
        print(json.dumps(web.ports), flush=True)
        web.thread.join()

if __name__ == '__main__': main()
