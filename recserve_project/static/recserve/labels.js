// Names for what the theme leaves nameless, so that a screen reader can say what it is.
"use strict";

(() => {
  const named = (field) =>
    field.getAttribute("aria-label") || field.getAttribute("aria-labelledby") || (field.labels && field.labels.length);

  function name() {
    // Fields in the rows of a table: the cell says its column.
    for (const field of document.querySelectorAll("td[data-label] :is(input, select, textarea)")) {
      if (field.type !== "hidden" && !named(field)) field.setAttribute("aria-label", field.closest("td").dataset.label);
    }
    // The search of a list to choose from: the list's label is its name.
    for (const field of document.querySelectorAll(".select2-search__field")) {
      if (named(field)) continue;
      const container = field.closest(".select2-container");
      const select = container && container.previousElementSibling;
      const label = select && select.labels && select.labels[0];
      field.setAttribute("aria-label", label ? label.textContent.trim() : "Search");
    }
    for (const hint of document.querySelectorAll("span.help-tooltip[aria-label]:not([role])")) hint.setAttribute("role", "img");
  }

  document.addEventListener("DOMContentLoaded", () => {
    name();
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  });
})();
