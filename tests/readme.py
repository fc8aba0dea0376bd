"Write README.md from nbs/index.ipynb: nbdev's own processing, then nbconvert; no quarto"
import re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def head(cells):
    "Title and description, which nbdev has turned into front matter"
    raw = next(c.source for c in cells if c.source.startswith('---'))
    title, said = (re.search(rf"^{k}: (.+?)(?=\n\S)", raw, re.M | re.S)[1] for k in ('title', 'description'))
    said = re.sub(r'\s+', ' ', said.strip("'\""))
    return f'# {title}\n\n> {said}\n\n'


def render():
    "The README as markdown, from the notebook as it is"
    from nbconvert import MarkdownExporter
    from nbdev.process import NBProcessor
    from nbdev.serve import FilterDefaults
    import nbformat
    nb = NBProcessor(ROOT/'nbs'/'index.ipynb', procs=FilterDefaults().procs())
    nb.process()
    cells = [dict(c) for c in nb.nb.cells if c.source.strip()]
    for o in (o for c in cells for o in c.get('outputs', [])):          # nbdev keeps text as a list of lines
        if isinstance(o.get('text'), list): o['text'] = ''.join(o['text'])
        for k,v in o.get('data', {}).items(): o['data'][k] = ''.join(v) if isinstance(v, list) else v
    for c in cells:
        c['metadata'] = {}
        c['source'] = re.sub(r'^#\|.*\n?', '', c['source'], flags=re.M)
    text, _ = MarkdownExporter().from_notebook_node(nbformat.from_dict(dict(cells=cells, metadata=dict(language_info=dict(name='python')), nbformat=4, nbformat_minor=5)))
    text = re.sub(r'\A\s*---\n.*?\n---\n|<!-- WARNING.*?-->\n', '', text, flags=re.S)  # front matter is for web pages
    text = head(nb.nb.cells) + text
    text = re.sub(r'(\]\(|src=")(?=images/)', r'\1nbs/', text)          # pictures lie beside the notebook
    text = re.sub(r'\]\((\w+)\.ipynb\)', r'](nbs/\1.ipynb)', text)
    return '<!-- Written by `make readme` from nbs/index.ipynb: edit that -->\n\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__':
    (ROOT/'README.md').write_text(render(), encoding='utf-8')
    print('README.md written', file=sys.stderr)
