"""Clients without pause against the API, and the same pictures through the bare model.

python bench/load_api.py [--quick] [--model FOLDER] [--photos FOLDER] [--clients 32] [--seconds 60]

The API serves in a process of its own, at its defaults. The clients, in a second process, keep one connection each and send the next
picture as soon as an answer is there. The bare model is a third process with as many threads as processors that decodes the same bytes and
runs the graph, with no server and no clients; of its two ways (`predict` in threads, `predict_many` in batches) the faster one counts.
All have the same machine, one after the other in slices, so that other work disturbs both alike. So `share_of_model` charges the API
with everything: HTTP, its queue, and the clients' own work, which on a real day is somebody else's. `processor_ms` is what a picture
costs the process that answers, whatever else the machine does.
"""
import argparse, asyncio, contextlib, io, itertools, json, os, pickle, platform, statistics, subprocess, sys, time, urllib.request
from concurrent.futures import ThreadPoolExecutor

SERVE = 'import sys; from bear_classifier.api import serve_api; serve_api(sys.argv[1] or None, port=0)'

def pictures(folder, n=24):
    "Bytes of the files in `folder`, or of drawings of 512 pixels"
    if folder:
        from bear_classifier.core import image_files
        files = image_files(folder)
        return [p.read_bytes() for p in files[::max(1, len(files)//n)]]
    from bear_classifier.practice import draw_scene
    def one(i):
        out = io.BytesIO(); draw_scene(('black', 'grizzly', 'teddy')[i % 3], i, 512).image.save(out, 'JPEG', quality=88)
        return out.getvalue()
    return [one(i) for i in range(n)]

class Client(asyncio.Protocol):
    "One connection that asks without pause"
    def __init__(self, bodies, until, seen): self.bodies, self.until, self.seen, self.done = bodies, until, seen, asyncio.get_running_loop().create_future()

    def connection_made(self, transport): self.transport, self.got, self.need = transport, b'', None; self.ask()

    def ask(self):
        body = next(self.bodies); self.start = time.perf_counter()
        self.transport.write(b'POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % len(body) + body)

    def data_received(self, data):
        self.got += data
        if self.need is None and (end := self.got.find(b'\r\n\r\n')) >= 0:
            head = self.got[:end].lower()
            self.need = end + 4 + int(head.split(b'content-length: ')[1].split(b'\r\n')[0])
        if self.need is None or len(self.got) < self.need: return
        now = time.perf_counter()
        self.seen.append((int(self.got[9:12]), now - self.start)); self.got, self.need = b'', None
        if now < self.until: self.ask()
        else: self.done.set_result(None); self.transport.close()

    def connection_lost(self, exc):
        if not self.done.done(): self.seen.append((0, time.perf_counter() - self.start)); self.done.set_result(None)

async def crowd(port, bodies, n, seconds):
    "(statuses and times, seconds it took)"
    seen, start = [], time.perf_counter()
    loop, source = asyncio.get_running_loop(), itertools.cycle(bodies)
    clients = [(await loop.create_connection(lambda: Client(source, start + seconds, seen), '127.0.0.1', port))[1] for _ in range(n)]
    await asyncio.gather(*(o.done for o in clients))
    return seen, time.perf_counter() - start

def bare(model, bodies, seconds):
    "(pictures a second, processor milliseconds a picture) of the model without a server, the faster of two ways"
    from bear_classifier.infer import BearClassifier, processors
    clf = BearClassifier.load(model, threads=1) if model else BearClassifier.practice(threads=1)
    n = processors()
    def threads(sources):
        with ThreadPoolExecutor(n) as pool: list(pool.map(clf.predict, sources))
    def batches(sources): list(clf.predict_many(sources, workers=n))
    def rate(way):
        start, spent, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds/2: way(bodies * 2); count += 2*len(bodies)
        return count / (time.perf_counter() - start), 1000 * (time.process_time() - spent) / count
    clf.predict(bodies[0])
    return max(rate(threads), rate(batches))

def worker():
    "A process that waits for tasks on its input, so that its imports cost no time that is measured"
    with contextlib.suppress(ImportError):
        import uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    tasks = dict(crowd=lambda *a: asyncio.run(crowd(*a)), bare=bare)
    while True:
        try: name, args = pickle.load(sys.stdin.buffer)
        except EOFError: return
        pickle.dump(tasks[name](*args), sys.stdout.buffer); sys.stdout.buffer.flush()

class Worker:
    def __init__(self): self.p = subprocess.Popen([sys.executable, __file__, '--worker'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    def __call__(self, name, *args): pickle.dump((name, args), self.p.stdin); self.p.stdin.flush(); return pickle.load(self.p.stdout)
    def close(self): self.p.stdin.close(); self.p.wait()

def metric(port, name):
    "A number that the server tells about itself; 0 where the system does not tell it"
    lines = urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics').read().decode().splitlines()
    return next((float(o.split()[1]) for o in lines if o.startswith(name + ' ')), 0.)

def measure(args):
    bodies, seen, spent, cpu, alone = pictures(args.photos), [], 0, 0, []
    env = dict(os.environ, OMP_WAIT_POLICY='PASSIVE')
    server = subprocess.Popen([sys.executable, '-c', SERVE, args.model or ''], stdout=subprocess.PIPE, text=True, env=env)
    clients, model = Worker(), Worker()
    try:
        port = int(server.stdout.readline().split('127.0.0.1:')[1].split('/')[0])
        clients('crowd', port, bodies, args.clients, .3)
        for _ in range(args.slices):
            alone.append(model('bare', args.model, bodies, args.seconds / args.slices / 3))
            before = metric(port, 'process_cpu_seconds_total')
            got, took = clients('crowd', port, bodies, args.clients, args.seconds / args.slices)
            seen += got; spent += took; cpu += metric(port, 'process_cpu_seconds_total') - before
        alone.append(model('bare', args.model, bodies, args.seconds / args.slices / 3))
        mb = round(metric(port, 'process_resident_memory_bytes') / 1e6)
    finally: clients.close(); model.close(); server.terminate(); code = server.wait(40)
    return seen, spent, cpu, alone, mb, code

def report(args):
    seen, spent, cpu, alone, mb, code = measure(args)
    good = sorted(t for s,t in seen if s == 200)
    refused, errors = sum(s == 503 for s,_ in seen), sum(s not in (200, 503) for s,_ in seen)
    at = lambda q: round(1000 * good[min(len(good)-1, int(q*len(good)))], 1)
    bare_rate, bare_cpu = (statistics.mean(o) for o in zip(*alone))
    ours = dict(asked=len(seen), answered=len(good), errors=errors, refused=refused, p50_ms=at(.5), p99_ms=at(.99), per_second=round(len(good)/spent, 1),
                share_of_model=round(len(good)/spent/bare_rate, 3), processor_ms=round(1000*cpu/len(seen), 2), clients=args.clients, memory_mb=mb, exit_code=code)
    machine = dict(python=platform.python_version(), system=platform.system(), processors=os.cpu_count())
    return dict(bench='load_api', ours=ours, theirs=dict(per_second=round(bare_rate, 1), processor_ms=round(bare_cpu, 2), slices=[round(o, 1) for o,_ in alone]),
                ratio=dict(share=ours['share_of_model']), machine=machine)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='two seconds in all')
    p.add_argument('--model', help="a bundle or a model's folder; without it, the practice model")
    p.add_argument('--photos', help='a folder of pictures to send; without it, drawings')
    p.add_argument('--clients', type=int, default=32)
    p.add_argument('--seconds', type=float, default=60, help='of load')
    p.add_argument('--slices', type=int, default=6, help='that the load is cut into, with the bare model between them')
    p.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.quick: args.seconds, args.slices = 2, 1
    if args.worker: worker()
    else: print(json.dumps(report(args)))
