// What of a page's text a reader cannot read: cut off by its box, or too close in colour to what is behind it.
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const over = (colours, base) => {  // [r, g, b] of colours on one another, the first at the bottom
    canvas.fillStyle = base;
    canvas.fillRect(0, 0, 1, 1);
    for (const [colour, opacity] of colours) {
      canvas.globalAlpha = opacity;
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    canvas.globalAlpha = 1;
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, range = document.createRange();
    range.selectNodeContents(text);
    const place = range.getBoundingClientRect();
    if (!text.data.trim() || !place.width) continue;
    const chain = [];
    for (let at = text.parentElement; at; at = at.parentElement) chain.push([at, getComputedStyle(at)]);
    const back = chain.map(([, style]) => [style.backgroundColor, 1]).reverse();
    const opacity = chain.reduce((value, [, style]) => value * style.opacity, 1);
    const svg = text.parentElement.ownerSVGElement, ink = svg ? chain[0][1].fill : chain[0][1].color;
    const base = matchMedia('(prefers-color-scheme: dark)').matches ? '#000' : '#fff';
    const [low, high] = [over(back, base), over([...back, [ink, opacity]], base)].map(luminance).sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    const box = svg || chain.find(([, style]) => style.overflowX != 'visible')?.[0];
    const cut = box && (svg || /hidden|clip/.test(getComputedStyle(box).overflowX))
      && place.right > box.getBoundingClientRect().right + 1;
    if (cut) found.push(`cut: ${text.data.trim().slice(0, 60)}`);
    if (!svg && contrast < 4.5) found.push(`${contrast.toFixed(1)}: ${text.data.trim().slice(0, 60)}`);
  }
  return [...new Set(found)];
})()
