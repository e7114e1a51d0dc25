"""Scripts that look at a page as a reader does."""

# What is cut off, or has no room at all, is not seen: every word of a view has a box, and the box is on the page.
UNSEEN = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || parent.closest('style, script, svg') || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    let left = box.left, right = box.right;
    for (let up = parent; up; up = up.parentElement) {
      if (getComputedStyle(up).overflowX === 'visible') continue;
      const clip = up.getBoundingClientRect();
      left = Math.max(left, clip.left);
      right = Math.min(right, clip.right);
    }
    if (right - left < Math.min(box.width, 3) - 0.5 || box.width < 1 || box.right > innerWidth + 1)
      found.push(node.textContent.trim().slice(0, 40));
  }
  return found;
}"""
