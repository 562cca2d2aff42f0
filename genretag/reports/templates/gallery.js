"use strict";
// The gallery's only script. Everything that comes from outside is set as text or as a value, never as markup.
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const labels = facts.labels;
  const $ = (id) => document.getElementById(id);
  const GAP = 12, NARROWEST = 126, ON_A_PHONE = 104, OVERSCAN = 2, PRINTED = 120;
  const filters = ["genre", "low", "high", "show", "sort", "find"];

  const posters = facts.posters.map(([id, uri, genres, said, truth, disagreement, when, near, masks], number) => {
    const p = new Map();
    for (let i = 0; i < said.length; i += 2) p.set(said[i], said[i + 1] / 1000);
    return { id, uri, genres, p, truth, disagreement, when, near, masks, number, top: said.length ? said[1] / 1000 : 0,
             text: (id + "\n" + uri).toLowerCase() };
  });
  const marks = readMarks();  // uri -> {wrong: boolean, labels: numbers of the right labels}
  let view = [];              // the posters that fit, in their order
  let active = 0;             // which of them the keyboard is on
  let looked = -1;            // which of them the dialog shows
  let masked = -1;            // whose evidence the dialog shows: a place in the poster's masks, or -1
  let columns = 1, width = 0, height = 0;
  const cards = new Map();    // place in the view -> li
  const spare = [];
  const blocks = new Map();   // thumbnails by block, once read

  // Thumbnails: blocks of text after this script, read when one of their posters comes into view.
  function thumbnail(poster) {
    const number = Math.floor(poster.number / facts.block);
    if (!blocks.has(number)) {
      const block = $("t" + number), whole = document.readyState !== "loading";
      if (!whole && !block?.nextElementSibling) return null;  // it is still being read
      blocks.set(number, block.textContent.split(","));
    }
    return blocks.get(number)[poster.number % facts.block];
  }

  function show(image, blank, poster) {
    const data = thumbnail(poster);
    image.hidden = !data;
    blank.hidden = !!data;
    blank.textContent = data === "" ? "not there any more" : "";
    if (data) { image.src = "data:image/webp;base64," + data; image.alt = "Poster " + poster.id; }
    else { image.removeAttribute("src"); image.alt = ""; }
    return data !== null;
  }
  function showLate() {  // what was drawn before its thumbnails were read
    let late = false;
    for (const item of cards.values()) if (item.late) { item.late = !show(item.image, item.blank, view[item.place]); late ||= item.late; }
    if (late) requestAnimationFrame(showLate);
  }

  // Marks: kept in this browser until they are saved.
  function readMarks() {
    try { return new Map(JSON.parse(localStorage.getItem("genretag " + facts.key) || "[]")); } catch { return new Map(); }
  }
  function keepMarks() {
    try { localStorage.setItem("genretag " + facts.key, JSON.stringify([...marks])); } catch { /* private windows keep nothing */ }
  }
  function mark(poster, wrong) {
    const now = marks.get(poster.uri);
    if (now && now.wrong === wrong) marks.delete(poster.uri);
    else marks.set(poster.uri, { wrong, labels: wrong ? [] : [...poster.genres] });
    keepMarks();
    redraw();
  }
  function csv() {
    const quoted = (text) => '"' + text.replaceAll('"', '""') + '"';
    const rows = posters.filter((poster) => marks.has(poster.uri)).map((poster) =>
      quoted(poster.id) + "," + quoted(JSON.stringify(marks.get(poster.uri).labels.map((at) => labels[at]))));
    return "id,labels\n" + rows.map((row) => row + "\n").join("");
  }

  // Filters: in the form, and in the page's address.
  const probability = (poster, genre) => genre < 0 ? poster.top : poster.p.get(genre) ?? 0;
  const differs = (poster) => poster.truth !== null &&
    (poster.truth.length !== poster.genres.length || poster.truth.some((label) => !poster.genres.includes(label)));
  function fits(poster, f) {
    const p = probability(poster, f.genre), marked = marks.get(poster.uri);
    if (p < f.low - 1e-9 || p > f.high + 1e-9) return false;
    if (f.genre >= 0 && !f.touched && !poster.genres.includes(f.genre)) return false;
    if (f.find && !poster.text.includes(f.find)) return false;
    return { "": true, marked: !!marked, wrong: !!marked && marked.wrong, unmarked: !marked,
             differ: differs(poster), agree: poster.truth !== null && !differs(poster) }[f.show] ?? true;
  }
  function chosen() {
    const low = Number($("low").value), high = Number($("high").value);
    return { genre: labels.indexOf($("genre").value), low, high, touched: low > 0 || high < 1,
             show: $("show").value, sort: $("sort").value, find: $("find").value.trim().toLowerCase() };
  }
  function filter(keep) {
    const f = chosen(), on = view[active];
    const found = posters.filter((poster) => fits(poster, f));
    const by = { certain: (a, b) => probability(b, f.genre) - probability(a, f.genre),
                 uncertain: (a, b) => probability(a, f.genre) - probability(b, f.genre),
                 disagree: (a, b) => (b.disagreement ?? -1) - (a.disagreement ?? -1) }[f.sort];
    if (by) found.sort(by);
    view = found;
    active = keep && on ? Math.max(0, view.indexOf(on)) : 0;
    $("low-is").textContent = f.low.toFixed(2);
    $("high-is").textContent = f.high.toFixed(2);
    $("none").hidden = view.length > 0;
    count();
    layOut();
  }
  function count(done) {
    const wrong = [...marks.values()].filter((m) => m.wrong).length;
    const marked = marks.size ? ` · ${marks.size.toLocaleString("en")} marked, ${wrong.toLocaleString("en")} wrong` : "";
    $("count").textContent = (done ? done + " " : "") +
      `${view.length.toLocaleString("en")} of ${posters.length.toLocaleString("en")} posters${marked}`;
  }
  function toAddress() {
    const words = new URLSearchParams();
    for (const name of filters) {
      const value = $(name).value, usual = name === "high" ? "1" : name === "low" ? "0" : "";
      if (value !== usual) words.set(name, value);
    }
    history.replaceState(null, "", words.size ? "#" + words : location.pathname + location.search);
  }
  function fromAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    for (const name of filters) {
      $(name).value = words.get(name) ?? (name === "high" ? "1" : name === "low" ? "0" : "");
      if ($(name).tagName === "SELECT" && $(name).selectedIndex < 0) $(name).value = "";
    }
  }

  // The grid: only what is near the window exists, and cards that leave it come back as others.
  function layOut() {
    const room = $("grid").clientWidth;
    const narrowest = room < 500 ? ON_A_PHONE : NARROWEST;
    columns = Math.max(1, Math.floor((room + GAP) / (narrowest + GAP)));
    width = Math.floor((room - GAP * (columns - 1)) / columns);
    for (const [place, item] of cards) give(place, item);
    draw();
    $("grid").style.height = Math.ceil(view.length / columns) * (height || 280) + "px";
  }
  function give(place, item) { cards.delete(place); item.remove(); spare.push(item); }
  function draw() {
    if (!height && view.length) { const item = card(0); height = item.offsetHeight + GAP; }
    const top = $("grid").getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - OVERSCAN) * columns;
    const last = Math.min(view.length, (Math.ceil((innerHeight - top) / height) + OVERSCAN) * columns);
    for (const [place, item] of cards)
      if ((place < first || place >= last) && !(place === active && item.contains(document.activeElement))) give(place, item);
    for (let place = first; place < last; place++) if (!cards.has(place)) card(place);
    if (!cards.has(active) && cards.has(first)) cards.get(first).button.tabIndex = 0;  // or Tab would find no card
  }
  function card(place) {
    const item = spare.pop() || emptyCard();
    cards.set(place, item);
    item.style.width = width + "px";
    item.style.transform = `translate(${(place % columns) * (width + GAP)}px, ${Math.floor(place / columns) * height}px)`;
    item.setAttribute("aria-setsize", view.length);
    item.setAttribute("aria-posinset", place + 1);
    fill(item, place);
    const after = Math.min(...[...cards.keys()].filter((other) => other > place));  // read aloud and printed in order
    $("grid").insertBefore(item, cards.get(after) ?? null);
    return item;
  }
  function emptyCard() {
    const item = document.createElement("li");
    const button = item.appendChild(document.createElement("button"));
    button.type = "button";
    button.className = "card";
    item.image = button.appendChild(document.createElement("img"));
    item.image.width = 120; item.image.height = 180; item.image.decoding = "async";
    item.blank = span(button, "blank");
    item.rows = [0, 1, 2].map(() => {
      const row = span(button, "said");
      return { row, name: span(row, "name"), value: span(row, "value"), meter: meter(row) };
    });
    item.id_ = span(button, "id");
    item.flag = span(item, "flag");
    item.flag.setAttribute("aria-hidden", "true");
    item.button = button;
    button.addEventListener("click", () => { activate(Number(item.place)); look(item.place); });
    button.addEventListener("focus", () => activate(Number(item.place)));
    return item;
  }
  function fill(item, place) {
    const poster = view[place], marked = marks.get(poster.uri);
    item.place = place;
    item.button.tabIndex = place === active ? 0 : -1;
    item.late = !show(item.image, item.blank, poster);
    const said = [...poster.p].slice(0, 3);
    item.rows.forEach(({ row, name, value, meter }, at) => {
      row.hidden = at >= said.length;
      if (row.hidden) return;
      const [label, p] = said[at], given = poster.genres.includes(label);
      name.textContent = labels[label];
      name.className = given ? "name given" : "name";
      value.textContent = p.toFixed(2);
      setMeter(meter, p, given);
    });
    item.id_.textContent = poster.id;
    const word = marked ? (marked.wrong ? "wrong" : "right") : "";
    item.flag.textContent = word || (differs(poster) ? "≠ CSV" : "");
    item.flag.className = "flag " + word;
    const genres = poster.genres.map((label) => `${labels[label]} ${poster.p.get(label)?.toFixed(2) ?? ""}`);
    item.button.setAttribute("aria-label",
      `${poster.id}: ${genres.join(", ") || "no genre"}${word ? ", marked " + word : ""}`);
  }
  function span(parent, name, text) {
    const made = parent.appendChild(document.createElement("span"));
    made.className = name;
    if (text) made.textContent = text;
    return made;
  }
  function meter(parent) {
    const made = span(parent, "meter");
    made.appendChild(document.createElement("i"));
    return made;
  }
  function setMeter(made, p, given) {
    made.firstChild.style.transform = `scaleX(${p})`;
    made.className = given ? "meter" : "meter under";
  }
  function redraw() {
    for (const [place, item] of cards) fill(item, place);
    count();
    if (looked >= 0) fillLook();
  }

  // One poster on its own.
  const boxes = labels.map((label, at) => {
    const holder = $("boxes").appendChild(document.createElement("label"));
    const box = holder.appendChild(document.createElement("input"));
    box.type = "checkbox";
    box.addEventListener("change", () => {
      const marked = marks.get(view[looked].uri);
      marked.labels = boxes.flatMap((other, number) => other.checked ? [number] : []);
      keepMarks();
      fillLook();
    });
    holder.append(label);
    return box;
  });
  function look(place) {
    looked = Number(place);
    if (masked > 0) masked = 0;
    fillLook();
    if (!$("look").open) $("look").showModal();
  }
  function fillLook() {
    const poster = view[looked], marked = marks.get(poster.uri);
    show($("look-image"), $("look-blank"), poster);
    showMask(poster);
    $("look-id").textContent = poster.id;
    $("look-uri").textContent = poster.uri;
    $("look-when").textContent = "scored " + poster.when;
    $("right").setAttribute("aria-pressed", !!marked && !marked.wrong);
    $("wrong").setAttribute("aria-pressed", !!marked && marked.wrong);
    $("before").disabled = looked === 0;
    $("next").disabled = looked === view.length - 1;
    $("truth").hidden = !(marked && marked.wrong);
    boxes.forEach((box, at) => { box.checked = !!marked && marked.labels.includes(at); });
    $("truth-note").textContent = marked && !marked.labels.length ? "(none chosen: training will leave this poster out)" : "";
    $("look-truth").hidden = poster.truth === null;
    if (poster.truth !== null) $("look-truth").textContent = "In the CSV: " + (poster.truth.map((at) => labels[at]).join(", ") || "none of these labels");
    $("near").hidden = !poster.near.length;
    $("near-list").replaceChildren(...poster.near.map((number) => alike(posters[number])));
    $("bars").replaceChildren(...[...poster.p].map(([label, p]) => bar(label, p, poster.genres.includes(label))));
  }
  function showMask(poster) {
    const mask = poster.masks[masked];
    $("mask").hidden = !mask;
    if (mask) $("mask").src = "data:image/png;base64," + mask[1]; else $("mask").removeAttribute("src");
    if (!$("evidence")) return;
    $("evidence").disabled = !poster.masks.length;
    $("evidence").setAttribute("aria-pressed", !!mask);
    $("mask-of").textContent = mask ? "Bright: what supports " + labels[mask[0]] : "";
  }
  function nextMask() {  // off, the first genre, the second one, and off again
    const poster = view[looked];
    masked = masked + 1 < poster.masks.length ? masked + 1 : -1;
    showMask(poster);
  }
  function alike(poster) {
    const item = document.createElement("li"), button = item.appendChild(document.createElement("button"));
    button.type = "button";
    const image = button.appendChild(document.createElement("img"));
    image.width = 60; image.height = 90;
    show(image, span(button, "blank"), poster);
    button.setAttribute("aria-label", "Look at " + poster.id);
    button.addEventListener("click", () => {
      if (!view.includes(poster)) $("clear").click();
      step(view.indexOf(poster) - looked);
      $("near-list").querySelector("button")?.focus();
    });
    return item;
  }
  function bar(label, p, given) {
    const item = document.createElement("li");
    span(item, given ? "name given" : "name", labels[label]);
    const made = meter(item);
    setMeter(made, p, given);
    const threshold = made.appendChild(document.createElement("b"));
    threshold.style.left = Math.min(100, facts.thresholds[label] / 10) + "%";
    threshold.hidden = !facts.thresholds[label];
    span(item, "value", p.toFixed(2));
    return item;
  }
  function step(by) {
    const to = looked + by;
    if (to < 0 || to >= view.length) return;
    activate(to);
    look(to);
  }
  $("look").addEventListener("close", () => {
    const place = looked;  // the browser has just gone back to the poster that was opened first
    looked = -1;
    focusOn(place);
  });

  // The keyboard.
  function activate(place) {
    const before = cards.get(active), now = cards.get(place);
    active = place;
    if (before) before.button.tabIndex = -1;
    if (now) now.button.tabIndex = 0;
  }
  function focusOn(place) {
    if (!view.length) return;
    activate(Math.min(Math.max(place, 0), view.length - 1));
    const top = $("grid").getBoundingClientRect().top + Math.floor(active / columns) * height;
    const bar = document.querySelector(".actions").offsetHeight;
    if (top < bar + GAP) scrollBy(0, top - bar - GAP);
    else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight);
    draw();
    cards.get(active)?.button.focus({ preventScroll: true });
  }
  const page = () => Math.max(1, Math.floor(innerHeight / height)) * columns;
  const moves = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns, ArrowDown: () => columns,
                  PageUp: () => -page(), PageDown: () => page(), Home: () => -Infinity, End: () => Infinity };
  $("grid").addEventListener("keydown", (event) => {
    if (!moves[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    focusOn(active + moves[event.key]());
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || $("keys").open) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") return;
    const poster = looked >= 0 ? view[looked] : document.activeElement.closest?.("#grid") ? view[active] : null;
    if (event.key === "/" && looked < 0) { event.preventDefault(); $("find").focus(); }
    else if (event.key === "?") { event.preventDefault(); $("keys").showModal(); }
    else if (event.key === "x" && poster) { mark(poster, true); if (looked < 0 && marks.get(poster.uri)?.wrong) look(active); }
    else if (event.key === "r" && poster) mark(poster, false);
    else if (event.key === "e" && looked >= 0) nextMask();
    else if (looked >= 0 && event.target.type !== "checkbox" && event.key === "ArrowLeft") step(-1);
    else if (looked >= 0 && event.target.type !== "checkbox" && event.key === "ArrowRight") step(1);
  });

  $("right").addEventListener("click", () => mark(view[looked], false));
  $("wrong").addEventListener("click", () => mark(view[looked], true));
  $("evidence")?.addEventListener("click", nextMask);
  $("before").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("look").close());
  $("help").addEventListener("click", () => $("keys").showModal());
  $("clear").addEventListener("click", () => { history.replaceState(null, "", location.pathname + location.search); fromAddress(); filter(); });
  $("save").addEventListener("click", () => {
    if (!marks.size) { count("Nothing is marked yet: look at a poster and mark it."); return; }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "marks.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    count("Saved.");
  });
  $("copy").addEventListener("click", async () => {
    const ids = view.map((poster) => poster.id).join("\n");
    try { await navigator.clipboard.writeText(ids); } catch { copyTheOldWay(ids); }
    count("Copied the ids of");
  });
  function copyTheOldWay(text) {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  $("tools").addEventListener("input", () => { toAddress(); filter(); });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { passive: true });
  addEventListener("resize", () => { height = 0; layOut(); });
  addEventListener("hashchange", () => { fromAddress(); filter(); });
  addEventListener("beforeprint", () => { for (let at = 0; at < Math.min(PRINTED, view.length); at++) if (!cards.has(at)) card(at); });
  addEventListener("afterprint", layOut);

  fromAddress();
  filter();
  showLate();
})();
