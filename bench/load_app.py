"""Twenty visitors open the page within ten seconds, in Chromium, and each asks about three photos.

The server starts as `bear-classifier app` does, with its defaults, and everything shares this machine: the browsers too.
asked, answered: photos.  errors: visits or photos without an answer.  p50_ms, p99_ms: from choosing a photo to its verdict.
"""
import argparse, asyncio, json, os, platform, sys, tempfile, time
from pathlib import Path
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tests'))
import serving
from bear_classifier.practice import draw_bear

def photos(folder):
    def one(i, kind): draw_bear(kind, i, 512).resize((1600, 1200)).save(f := folder/f'{kind}-{i}.jpg', quality=90); return f
    return [one(i, k) for i, k in enumerate(('grizzly', 'black', 'teddy'))]

def megabytes(site):
    def one(p):
        try: return p.memory_info().rss / 1e6
        except psutil.Error: return 0  # it ended while we counted
    return sum(map(one, psutil.Process(site.proc.pid).children()))

async def visitor(browser, url, files, wait, seen):
    await asyncio.sleep(wait)
    context = await browser.new_context()
    try:
        page = await context.new_page(); t = time.perf_counter()
        await page.goto(url, wait_until='commit')
        while True:  # the friendly page at the cap tries again by itself
            try: await page.wait_for_selector(serving.READY, timeout=120_000); break
            except Exception: seen['refused'] += 1; raise
        seen['ready'].append(time.perf_counter() - t)
        for i, f in enumerate(files):
            t = time.perf_counter(); seen['asked'] += 1
            await page.set_input_files('#bears-choose', [f])
            await page.wait_for_function(f"document.querySelectorAll('.card[data-state=done]').length == {i+1}", timeout=120_000)
            seen['times'].append(time.perf_counter() - t)
            await asyncio.sleep(1)
        seen['open'] = max(seen['open'], len(browser.contexts))
        seen['memory'].append(megabytes(seen['site']))
    except Exception as e: seen['errors'].append(' | '.join([str(e)[:60], *await page.locator('.card .verdict').all_inner_texts(), *await page.locator('.alert').all_inner_texts()]))
    finally: await context.close()

async def crowd(site, files, n, within):
    from playwright.async_api import async_playwright
    seen = dict(site=site, asked=0, refused=0, errors=[], ready=[], times=[], memory=[], open=0)
    async with async_playwright() as p:
        b = await p.chromium.launch(executable_path=serving.CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run'])
        start = time.perf_counter()
        await asyncio.gather(*(visitor(b, site.url, files, within*i/n, seen) for i in range(n)))
        seen['seconds'] = time.perf_counter() - start
        await b.close()
    return seen

def quantile(xs, q): return sorted(xs)[min(len(xs) - 1, int(q * len(xs)))] if xs else float('nan')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='three visitors within a second')
    p.add_argument('--model', type=Path, default=serving.MODEL, help='a bundle; the practice model if not given')
    a = p.parse_args()
    n, within = (3, 1) if a.quick else (20, 10)
    with tempfile.TemporaryDirectory() as tmp:
        with serving.server(tmp, model=str(a.model) if a.model else None) as s:
            seen = asyncio.run(crowd(s, photos(Path(tmp)), n, within))
            back = time.perf_counter(); s.until(lambda h: h['visits'] == 0, 60); back = time.perf_counter() - back
            health = s.health(); server_mb = psutil.Process(s.proc.pid).memory_info().rss / 1e6
    ours = dict(asked=seen['asked'], answered=len(seen['times']), errors=len(seen['errors']), refused=seen['refused'],
                p50_ms=round(1000*quantile(seen['times'], .5)), p99_ms=round(1000*quantile(seen['times'], .99)), per_second=round(len(seen['times'])/seen['seconds'], 2),
                ready_p50_ms=round(1000*quantile(seen['ready'], .5)), ready_max_ms=round(1000*max(seen['ready'], default=float('nan'))), visitors=n, at_once=seen['open'],
                kernels_mb=round(max(seen['memory'], default=0)), server_mb=round(server_mb), seconds=round(seen['seconds'], 1), freed_after_s=round(back, 1), kernels_left=health['kernels'], why=seen['errors'][:3])
    print(json.dumps(dict(bench='load_app', ours=ours, theirs={}, ratio={}, machine=dict(cpus=os.cpu_count(), python=platform.python_version(), system=platform.system()))))

if __name__ == '__main__': main()
