"""The style sheet of the HTML report: system fonts, light and dark, and print."""

CSS = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #5b6570; --line: #dfe3e8; --faint: #f5f7f9;
  --accent: #1f5fbf; --help: #1b6e3c; --harm: #a8321f; --warn: #7a5200; --warn-paper: #fff6df;
  --c0: #1f5fbf; --c1: #b8500a; --c2: #17775b; --c3: #a3307f; --c4: #6b6f76; --c5: #7a5ac7;
  --c6: #8a6d00; --c7: #0c7c99; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e4e8ec; --soft: #99a3ae; --line: #2d343c; --faint: #1c2127;
  --accent: #79aefc; --help: #6fcf97; --harm: #f2917f; --warn: #f0c869; --warn-paper: #2c2513;
  --c0: #79aefc; --c1: #f5a35c; --c2: #5fcfa5; --c3: #ee8fd0; --c4: #a9b1ba; --c5: #b9a2f5;
  --c6: #dcc25a; --c7: #63cbe6; } }
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
a:focus-visible, summary:focus-visible, button:focus-visible, input:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px; }
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
td .ci { display: block; } td.told { min-width: 15em; }
.word { color: var(--warn); }
.skip { position: absolute; left: -999px; } .skip:focus { left: 12px; top: 8px; background: var(--paper);
  padding: 6px 10px; }
.controls { display: flex; gap: 16px; align-items: baseline; margin: 10px 0 6px;
  font-size: 13.5px; color: var(--soft); }
.controls:not(:has(input)):has(output:empty) { display: none; }
.controls input { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--soft);
  border-radius: 4px; padding: 3px 8px; width: 22em; max-width: 60vw; } .controls label { white-space: nowrap; }
.controls select { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--soft);
  border-radius: 4px; padding: 2px 4px; }
thead button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit;
  cursor: pointer; }
thead button::after { content: "\\00a0\\2195"; color: var(--line); } thead button:hover { color: var(--ink); }
th[aria-sort] button { color: var(--ink); } th[aria-sort] button::after { color: var(--accent); }
th[aria-sort="ascending"] button::after { content: "\\00a0\\2191"; }
th[aria-sort="descending"] button::after { content: "\\00a0\\2193"; }
.dense { position: relative; left: 50%; transform: translateX(-50%); width: max-content; min-width: 100%;
  max-width: max(100%, min(1500px, 100vw - 64px)); }
.dense table { font-size: 13px; } .dense th, .dense td { padding-right: 12px; } .dense .ci { font-size: 12px; }
.dense .number + :not(.number) { padding-left: 14px; } section section { margin-top: 28px; }
tr.baseline th, tr.baseline td { color: var(--soft); }
tr.ceiling th, tr.ceiling td { font-style: italic; color: var(--soft); } td.front, .letters { white-space: nowrap; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 12.5px;
  overflow-wrap: anywhere; }
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
.plot .front { stroke: var(--accent); stroke-width: 1.5; fill: none; stroke-opacity: 0.6; }
.plot .whisker { stroke: var(--soft); stroke-opacity: 0.7; } .plot .name { font-size: 11.5px; }
.plot .point { fill: var(--paper); stroke: var(--accent); stroke-width: 1.5; }
.plot .point.baseline { stroke: var(--soft); }
.plot .point.best { fill: var(--accent); stroke: var(--accent); }
.plot .point.baseline.best { fill: var(--soft); stroke: var(--soft); }
.wide { max-width: 760px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 8px 0; padding: 0; font-size: 13px; }
.swatch { vertical-align: middle; }
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
.passage { font-size: 13.5px; line-height: 1.5; margin: 2px 0 0; max-width: none; }
.instance > .passage { margin: 0 0 12px; max-width: 76ch; }
.passages { list-style: none; margin: 0; padding: 0; } .passages li { margin: 0 0 12px; font-size: 13.5px; }
.passages .lead { font-size: 13px; } .passages .number { text-align: left; }
mark { background: none; color: inherit; text-decoration: underline; text-decoration-color: var(--accent);
  text-decoration-thickness: 2px; text-underline-offset: 3px; }
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
    --help: #1b6e3c; --harm: #a8321f; --warn: #5c3d00; --warn-paper: #fff6df;
  --c0: #1f5fbf; --c1: #b8500a; --c2: #17775b; --c3: #a3307f; --c4: #6b6f76; --c5: #7a5ac7;
  --c6: #8a6d00; --c7: #0c7c99; }
  body { font-size: 11pt; } table { font-size: 9pt; } th, td { padding-right: 10px; }
  .dense { width: auto; max-width: none; left: 0; transform: none; }
  .dense table { font-size: 7pt; } .dense th, .dense td { padding-right: 5px; } .dense .ci { font-size: 6.5pt; }
  main { max-width: none; padding: 0; } .scroll { overflow: visible; } td.told { min-width: 0; }
  h2, h3, caption { break-after: avoid; } .controls, .skip { display: none; }
  thead button::after { content: none !important; } thead { display: table-header-group; }
  a { color: inherit; } tr[hidden] { display: none; } tr, figure { break-inside: avoid; } 
  article + article { break-before: page; } }
"""
