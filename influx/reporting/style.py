"""The style sheet of the HTML report: system fonts, light and dark, and print."""

CSS = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #5b6570; --line: #dfe3e8; --faint: #f5f7f9;
  --accent: #1f5fbf; --help: #1b6e3c; --harm: #a8321f; --warn: #7a5200; --warn-paper: #fff6df; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e4e8ec; --soft: #99a3ae; --line: #2d343c; --faint: #1c2127;
  --accent: #79aefc; --help: #6fcf97; --harm: #f2917f; --warn: #f0c869; --warn-paper: #2c2513; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
main { max-width: 1100px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
h3 { font-size: 15px; margin: 0 0 8px; } .scroll + h3 { margin-top: 28px; }
article + article { margin-top: 72px; padding-top: 40px; border-top: 2px solid var(--line); }
header + article { margin-top: 56px; }
article h2.run { font-size: 24px; margin: 0 0 4px; }
p { margin: 6px 0 12px; max-width: 76ch; }
.lead, .note, caption, figcaption, dt { color: var(--soft); }
.note, figcaption { font-size: 13.5px; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; font-size: 13.5px; padding: 0 0 6px; }
th, td { text-align: left; vertical-align: baseline; padding: 7px 18px 7px 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 600; font-size: 13px; color: var(--soft); vertical-align: bottom;
  border-bottom: 1px solid var(--soft); }
tbody th { font-weight: 400; }
tr.own th, tr.own td { font-weight: 650; }
.number { text-align: right; white-space: nowrap; }
.ci { color: var(--soft); font-weight: 400; font-size: 13px; white-space: nowrap; }
td .ci { display: block; }
.word { color: var(--warn); }
.help { color: var(--help); } .harm { color: var(--harm); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 16px 0; font-size: 14px; }
dd { margin: 0; min-width: 0; }
.warnings { background: var(--warn-paper); color: var(--warn); border-radius: 6px; padding: 10px 18px; margin: 18px 0; }
.warnings h3 { margin: 0; } .warnings ul { margin: 4px 0; padding-left: 20px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 28px; }
figure { margin: 0; }
.plot { width: 100%; height: auto; display: block; }
.plot text { fill: var(--soft); font-size: 12px; } .plot .label { fill: var(--ink); font-size: 13px; }
.plot .middle { text-anchor: middle; } .plot .end { text-anchor: end; }
.plot .grid { stroke: var(--line); } .plot .zero { stroke: var(--soft); }
.plot .dots { stroke: var(--accent); stroke-width: 4; stroke-linecap: round; stroke-opacity: 0.4; fill: none; }
.plot .bar { fill: var(--accent); fill-opacity: 0.75; }
.plot .median { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
.instance { padding: 18px 0 14px; border-top: 1px solid var(--line); break-inside: avoid; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 40px; }
.shown { display: grid; grid-template-columns: 104px 1fr; gap: 24px; }
.shown .sides { gap: 8px 28px; }
.strip { display: flex; flex-wrap: wrap; gap: 10px; list-style: none; margin: 0; padding: 0; }
.strip figure { width: 80px; } .strip figcaption { font-size: 11px; line-height: 1.4; margin-top: 4px; }
.strip .pair { white-space: nowrap; letter-spacing: -0.02em; }
img { display: block; width: 64px; image-rendering: pixelated; border: 1px solid var(--line); }
.shown > figure img { width: 96px; }
.side { font-size: 13px; margin: 0 0 6px; font-weight: 600; }
.share { display: block; height: 9px; min-width: 1px; background: var(--accent); opacity: 0.75; }
td.bar { width: 34%; vertical-align: middle; }
pre { background: var(--faint); border-radius: 6px; padding: 12px 16px; overflow-x: auto;
  font-size: 13px; line-height: 1.5; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: 10px 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; font-size: 14px; }
@media (max-width: 1020px) { .shown .sides { grid-template-columns: 1fr; } }
@media (max-width: 720px) { .sides, .shown { grid-template-columns: 1fr; } main { padding: 24px 16px 48px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 8px; } }
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --faint: #f4f4f4; --accent: #1f5fbf;
    --help: #1b6e3c; --harm: #a8321f; --warn: #5c3d00; --warn-paper: #fff6df; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  h2 { break-after: avoid; } tr, figure { break-inside: avoid; } article + article { break-before: page; } }
"""
