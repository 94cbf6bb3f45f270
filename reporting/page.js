(() => {
  "use strict";

  const specs = JSON.parse(document.getElementById("specs").textContent);

  const tip = document.body.appendChild(document.createElement("dl"));
  tip.id = "tip";
  tip.hidden = true;

  /** Beside the pointer, and always within the window. */
  function showTip(_handler, event, _item, value) {
    tip.hidden = !value;
    if (!value) return;
    tip.replaceChildren(...Object.entries(value).flatMap(([key, text]) => {
      const [term, description] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = key;
      description.textContent = text;
      return [term, description];
    }));
    const { clientX, clientY } = event.touches?.[0] ?? event;
    const within = (start, size, all) => Math.max(8, Math.min(start + 14, all - size - 8));
    tip.style.left = `${within(clientX, tip.offsetWidth, document.documentElement.clientWidth)}px`;
    const below = clientY + 14 + tip.offsetHeight < document.documentElement.clientHeight;
    tip.style.top = `${below ? clientY + 14 : Math.max(8, clientY - tip.offsetHeight - 14)}px`;
  }

  const options = {
    renderer: "svg", // the colours are CSS variables, which follow the colour scheme by themselves
    actions: false,
    ast: true, // expressions are interpreted: the page's security policy allows no eval
    defaultStyle: false,
    tooltip: showTip,
  };
  for (const [name, spec] of Object.entries(specs)) {
    const chart = document.getElementById(`chart-${name}`);
    vegaEmbed(chart, spec, options).then(
      () => { chart.dataset.drawn = ""; },
      (error) => {
        chart.textContent = "This chart could not be drawn; the table holds its figures.";
        console.error(error);
      },
    );
  }

  const wide = matchMedia("(min-width: 60rem)");
  for (const details of document.querySelectorAll("[data-open-when-wide]")) details.open = wide.matches;

  // "Côte d'Ivoire" is found by "cote".
  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

  for (const filter of document.querySelectorAll(".filter")) {
    const input = filter.querySelector("input");
    const rows = [...filter.parentElement.querySelectorAll("tbody tr")]
      .map((row) => [row, plain(row.textContent)]);
    const show = () => {
      const words = plain(input.value).split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of rows) {
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      filter.querySelector("output").value = words.length
        ? `${shown} of ${rows.length}` : "";
    };
    input.addEventListener("input", show);
    show();
  }

  const number = (text) => Number(text.replaceAll(",", ""));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.textContent = head.textContent;
      head.replaceChildren(button);
      const numeric = head.classList.contains("number");
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const first = numeric ? "descending" : "ascending";
        const then = numeric ? "ascending" : "descending";
        const order = before === first ? then : first;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const cell = (row) => row.cells[column].textContent.trim();
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => sign * (numeric
          ? number(cell(a)) - number(cell(b))
          : cell(a).localeCompare(cell(b)))));
      });
    });
  }
})();
