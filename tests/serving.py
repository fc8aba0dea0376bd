"Helpers of the dashboard's tests and benchmarks: a server of its own, and Chromium"
import json, os, shutil, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
import psutil

MODEL = os.environ.get('BEAR_TEST_MODEL') or None  # a bundle to test with; None takes the practice model
PICTURES = Path(__file__).parent/'pictures'
CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)
_RUN = 'import json, sys; from bear_classifier.serve import serve_app; serve_app(**json.loads(sys.argv[1]))'

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

class Server:
    "`serve_app` in a process of its own, as the command line starts it"
    def __init__(self, log, **kw):
        self.log = open(log, 'w')
        args = dict(dict(model=MODEL, port=free_port(), feedback=None), **kw)
        self.proc = subprocess.Popen([sys.executable, '-c', _RUN, json.dumps(args)], stdout=subprocess.PIPE, stderr=self.log, text=True)
        lines = []
        for line in self.proc.stdout:
            lines.append(line)
            if 'is ready: ' in line: break
        else: raise RuntimeError(f'the server did not start: {"".join(lines)}{Path(log).read_text()[-2000:]}')
        self.url = line.split('is ready: ')[1].strip()

    def get(self, path='', **headers):
        "Status, headers and text of an answer, whatever its status"
        try: r = urlopen(Request(self.url + path, headers=headers), timeout=60)
        except HTTPError as e: r = e
        with r: return r.status, r.headers, r.read().decode('utf-8', 'replace')

    def health(self): return json.loads(self.get('healthz')[2])

    def until(self, test, seconds=30):
        "Wait for a state of health; give the last one seen"
        end = time.monotonic() + seconds
        while not test(h := self.health()) and time.monotonic() < end: time.sleep(.1)
        return h

    def kernels(self):
        "Processes of the kernels; one that ends while we look has no command line"
        def words(p):
            try: return p.cmdline()
            except psutil.Error: return []
        return [p for p in psutil.Process(self.proc.pid).children() if '-f' in words(p)]

    def stop(self):
        "SIGTERM, as an operator's tools send it; give the exit code"
        if self.proc.poll() is None: self.proc.terminate()
        try: return self.proc.wait(20)
        except subprocess.TimeoutExpired: self.proc.kill(); raise
        finally: self.proc.stdout.close(); self.log.close()

@contextmanager
def server(tmp, **kw):
    s = Server(Path(tmp)/'server.log', **kw)
    try: yield s
    finally: s.stop()

@contextmanager
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run',
                                                                              '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'])
        try: yield b
        finally: b.close()

READY = '[data-ready=true]'
DONE = "n => document.querySelectorAll('.card').length >= n && !document.querySelector('.card.busy')"

def visit(context, url, **kw):
    "Open the page and wait until it can be used"
    page = context.new_page()
    page.goto(url, **kw)
    page.wait_for_selector(READY, timeout=60_000)
    return page

def classify(page, files, seconds=60):
    "Choose files and wait for their answers; give the cards' texts, newest first"
    n = page.locator('.card').count() + len(files)
    page.set_input_files('#bears-choose', files)
    page.wait_for_function(DONE, arg=n, timeout=seconds*1000)
    return page.locator('.card .verdict').all_inner_texts()
