"""Seconds from making a `Reviewer` to its first page of thumbnails, with 300 and with 5,000 images, served by Voila, in Chromium.

Each visit has a kernel of its own. The clock starts in the notebook's cell, after the imports, and stops in the browser when all 24 pictures of
the page are decoded; both read the same machine's time. ratio.many: the median with many images over the median with few; near 1 means that the
number of images costs nothing.
"""
import argparse, json, os, platform, shutil, statistics, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tests'))
import reviewing, serving
from bear_classifier.core import image_files
from bear_classifier.practice import practice_dataset

CELL = '''import sys, time; sys.path.insert(0, {tests!r})
from IPython.display import HTML, display
from bear_classifier.review import Reviewer
start = time.time()
display(Reviewer({root!r}), HTML(f'<i id="start">{{start}}</i>'))'''
STANDS = """() => {
  const cards = document.querySelectorAll('.bear-review[data-ready=true] .card img'), start = document.querySelector('#start');
  if (!start || cards.length < 24 || ![...cards].every(o => o.complete && o.naturalWidth)) return null;
  window.stood ??= Date.now()/1000 - parseFloat(start.textContent);
  return window.stood; }"""

def copies(root, few, n):
    "A dataset of `n` images made of copies; their names differ, which is all that the reviewer looks at before it shows them"
    for i, f in zip(range(n), (f for _ in range(-(-n//len(few))) for f in few)):
        to = root/f.parent.name/f'{i:05}.jpg'; to.parent.mkdir(parents=True, exist_ok=True); shutil.copy(f, to)
    return root

def first_page(browser, url):
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.goto(url)
    seconds = page.wait_for_function(STANDS, timeout=120_000, polling=10).json_value()
    page.context.close()
    return seconds

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='one visit each, 30 and 300 small images')
    p.add_argument('--few', type=int, default=300); p.add_argument('--many', type=int, default=5000); p.add_argument('--visits', type=int, default=5)
    a = p.parse_args()
    if a.quick: a.few, a.many, a.visits = 30, 300, 1
    reviewing.CELL = CELL
    with tempfile.TemporaryDirectory() as tmp, serving.chromium() as browser:
        tmp = Path(tmp)
        few = practice_dataset(tmp/'few', n_per_class=-(-a.few//3), size=96 if a.quick else 384)
        many = copies(tmp/'many', image_files(few), a.many)
        with reviewing.page(tmp/'a', few) as url_few, reviewing.page(tmp/'b', many) as url_many:
            pairs = [(first_page(browser, url_few), first_page(browser, url_many)) for _ in range(a.visits)]
    f, m = (statistics.median(o) for o in zip(*pairs))
    print(json.dumps(dict(bench='review', ours=dict(few=round(f, 3), many=round(m, 3), n_few=a.few, n_many=a.many), theirs={}, ratio=dict(many=round(m/f, 3)),
                          machine=dict(cpus=os.cpu_count(), python=platform.python_version(), system=platform.system()))))

if __name__ == '__main__': main()
