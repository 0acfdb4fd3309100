"""The script that tells which text can be seen in the window of an HTML page."""

from __future__ import annotations

# The lines of text that can be seen whole in the window, as they are shown: runs of characters of one line, in the order of the
# document, that are not hidden, clipped or covered. What stands in fields counts, icon fonts do not.
VISIBLE_TEXT = """(() => {
  const lines = [], range = document.createRange();
  let count = 0;
  const shown = (element, box) => {
    if (box.left < -1 || box.top < -1 || box.right > innerWidth + 1 || box.bottom > innerHeight + 1) return false;
    if (box.right - box.left < 1 || box.bottom - box.top < 4) return false;
    const hit = document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2);
    return hit !== null && hit.contains(element);
  };
  const add = (element, text, box) => {
    text = text.replace(/[\\ue000-\\uf8ff\\u00ad\\u200b]/g, "").replace(/\\s+/g, " ");
    if (!text.trim() || !shown(element, box)) return;
    const last = lines[lines.length - 1], height = box.bottom - box.top;
    const over = last ? Math.min(last.box.bottom, box.bottom) - Math.max(last.box.top, box.top) : 0;
    const gap = last ? box.left - last.box.right : 0;
    if (last && over > Math.min(height, last.box.bottom - last.box.top) / 2 && gap > -2 && gap < height) {
      const space = gap > height / 6 && !/\\s$/.test(last.text) && !/^\\s/.test(text);
      last.text += (space ? " " : "") + text;
      last.box = {left: last.box.left, top: Math.min(last.box.top, box.top), right: box.right,
                  bottom: Math.max(last.box.bottom, box.bottom)};
    } else lines.push({text, box});
  };
  const say = (text, transform) => transform === "uppercase" ? text.toUpperCase()
    : transform === "lowercase" ? text.toLowerCase()
    : transform === "capitalize" ? text.replace(/(^|\\s)(\\S)/g, (_, a, b) => a + b.toUpperCase()) : text;
  const walker = document.createTreeWalker(document.body || document, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  for (let node = walker.nextNode(); node && count < 200000; node = walker.nextNode()) {
    const element = node.nodeType === 1 ? node : node.parentElement;
    if (!element || /^(SCRIPT|STYLE|NOSCRIPT|TEMPLATE|OPTION|TEXTAREA)$/.test(element.tagName) && node.nodeType === 3) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (node.nodeType === 1) {
      if (!/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)) continue;
      if (/^(hidden|checkbox|radio|range|color|file|password|image)$/.test(node.type)) continue;
      const text = node.tagName === "SELECT" ? (node.selectedOptions[0] || {}).text : node.value || node.placeholder;
      if (text && node.scrollWidth <= node.clientWidth + 1) add(node, text, node.getBoundingClientRect());
      continue;
    }
    if (!node.data.trim()) continue;
    const text = say(node.data, getComputedStyle(element).textTransform);
    const same = text.length === node.data.length;
    let run = "", box = null;
    for (let i = 0; i < node.data.length; i++, count++) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      const at = range.getClientRects()[0], char = same ? text[i] : node.data[i];
      if (!at || (!at.width && !char.trim())) { run += /\\s/.test(char) && run ? " " : ""; continue; }
      if (box && (Math.abs(at.top - box.top) > at.height / 2 || at.left < box.left - 1)) {
        add(element, run, box);
        run = "";
        box = null;
      }
      run += char;
      box = box ? {left: Math.min(box.left, at.left), top: Math.min(box.top, at.top), right: Math.max(box.right, at.right),
                   bottom: Math.max(box.bottom, at.bottom)}
                : {left: at.left, top: at.top, right: at.right, bottom: at.bottom};
    }
    if (box) add(element, run, box);
  }
  return lines.map(line => line.text.trim()).filter(line => line).join("\\n");
})()"""
