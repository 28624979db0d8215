// Formulas: the theme marks them, KaTeX draws them, from this site's own files.
document.addEventListener("DOMContentLoaded", () => {
  for (const node of document.querySelectorAll(".arithmatex")) {
    const text = node.textContent.trim(), display = text.startsWith("\\[");
    katex.render(text.replace(/^\\[([]|\\[)\]]$/g, ""), node, { displayMode: display, throwOnError: false });
  }
});
