"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, names, states, questions } = data;
  const count = columns.index.length;
  const form = document.getElementById("controls");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const said = document.getElementById("count");
  const STEP = 60;
  const FAILED = states.indexOf("failed");
  const ERROR = states.indexOf("error");
  let rows = [];
  let shown = 0;

  // Text only: what comes from the run is never read as markup.
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  const fill = (select, column) => {
    const used = [...new Set(column)].filter((number) => number !== null);
    used.sort((a, b) => names[a].localeCompare(names[b], undefined, { numeric: true }));
    for (const number of used) {
      const option = element("option", names[number]);
      option.value = number;
      select.append(option);
    }
  };
  fill(form.elements.prediction, columns.prediction);
  fill(form.elements.target, columns.target);
  if (!columns.quantile) form.elements.order.querySelector('[value="quantile"]').remove();

  // What is missing comes last; what is equal stays in the order of the data set.
  const by = (values, sign) => (a, b) => {
    const [x, y] = [values[a], values[b]];
    if (x === null || y === null) return (x === null) - (y === null) || columns.index[a] - columns.index[b];
    return sign * (x - y) || columns.index[a] - columns.index[b];
  };
  const dearest = by(columns.cost, -1);
  const orders = {
    cheapest: by(columns.cost, 1),
    dearest: (a, b) => (columns.state[b] === FAILED) - (columns.state[a] === FAILED) || dearest(a, b),
    confidence: by(columns.confidence, 1),
    quantile: columns.quantile && by(columns.quantile, 1),
    index: by(columns.index, 1),
  };

  const choose = () => {
    const value = (name) => form.elements[name].value;
    const number = (words, name) => (value(name) ? words.indexOf(value(name)) : null);
    const named = (name) => (value(name) ? Number(value(name)) : null);
    const wanted = {
      question: number(questions, "question"),
      state: number(states, "state"),
      prediction: named("prediction"),
      target: named("target"),
    };
    const filters = Object.entries(wanted).filter(([, number]) => number !== null);
    rows = [];
    for (let row = 0; row < count; row += 1) {
      if (filters.every(([name, number]) => columns[name][row] === number)) rows.push(row);
    }
    rows.sort(orders[value("order")]);
    list.replaceChildren();
    shown = 0;
    showMore();
  };

  const name = (column, row) => (columns[column][row] === null ? "unknown" : names[columns[column][row]]);

  const item = (row) => {
    const made = element("li");
    const state = columns.state[row];
    const title = element("div", `${name("prediction", row)} → ${name("target", row)}`, "title");
    if (columns.label[row] !== null && columns.label[row] !== columns.target[row]) {
      title.append(` (label ${name("label", row)})`);
    }
    made.append(title);
    const pictures = data.pictures[row];
    if (pictures) {
      const line = element("div", undefined, "pictures");
      ["original", "counterfactual", "change"].forEach((what, place) => {
        if (!pictures[place]) return;
        const figure = element("figure");
        const image = element("img");
        image.src = pictures[place];
        image.alt = what;
        image.loading = "lazy";
        figure.append(image, element("figcaption", what));
        line.append(figure);
      });
      made.append(line);
    }
    const facts = [];
    if (columns.cost[row] !== null) facts.push(`cost ${columns.cost[row]}`, `${columns.l0[row]} ${columns.l0[row] === 1 ? "entry" : "entries"}`);
    if (columns.confidence[row] !== null) facts.push(`confidence ${columns.confidence[row]}`);
    if (columns.quantile && columns.quantile[row] !== null) facts.push(`likelier than ${(100 * columns.quantile[row]).toFixed(0)}% of training images`);
    facts.push(data.image_names ? data.image_names[row] : `image ${columns.index[row]}`);
    if (state === FAILED || state === ERROR) {
      made.append(element("div", state === FAILED ? "failed: the best attempt is shown" : `error: ${data.errors[row]}`, "bad"));
    }
    made.append(element("div", facts.join(" · "), "facts"));
    return made;
  };

  const showMore = () => {
    const next = rows.slice(shown, shown + STEP);
    list.append(...next.map(item));
    shown += next.length;
    more.hidden = shown >= rows.length;
    said.textContent = `${rows.length.toLocaleString("en")} pairs, ${shown.toLocaleString("en")} shown`;
  };

  form.addEventListener("change", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(choose));
  more.addEventListener("click", showMore);
  document.querySelector("#costs").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-target]");
    if (!button) return;
    form.elements.prediction.value = button.dataset.prediction;
    form.elements.target.value = button.dataset.target;
    form.elements.state.value = "";
    form.elements.question.value = form.elements.question.querySelector("[selected]").value;
    choose();
    document.getElementById("pairs").scrollIntoView();
  });
  choose();
})();
