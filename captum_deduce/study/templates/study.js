"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SECTIONS = ["intro", "part", "trial", "end"];
  const STORE = `captum-deduce study ${data.study}`;
  const WORDS = {
    name: {
      question: "What do you see in the picture?",
      part: "You will see one picture at a time. Say what it shows. If you can't tell, say so.",
    },
    real: {
      question: "Is this a real picture, or was it changed by a computer?",
      part: "You will see one picture at a time. Some are real, as they were recorded; others were changed by a computer. Say which you think it is.",
    },
    prefer: {
      part: "You will see a picture, what a computer takes it for, and two changed versions that the computer takes for something else. Say which version explains better what would have to be different.",
    },
  };

  const question = ({ task, seen, target }) =>
    task.name === "prefer"
      ? `A computer takes this picture for \u201c${data.classes[seen]}\u201d, and both versions for \u201c${data.classes[target]}\u201d. Which version explains better what would have to be different?`
      : WORDS[task.name].question;

  // ---- what is kept: all people's answers on this device, and who is answering
  let memory = { current: null, keys: true, people: {} };
  let keeps = true;
  const load = () => {
    try {
      const text = localStorage.getItem(STORE);
      if (text) memory = JSON.parse(text);
      localStorage.setItem(STORE, JSON.stringify(memory));
    } catch {
      keeps = false;
    }
  };
  const keep = () => {
    try {
      localStorage.setItem(STORE, JSON.stringify(memory));
    } catch {
      keeps = false;
    }
    $("forgets").hidden = keeps;
  };

  // ---- who is asked what: numbers follow one another around the circle of trials, so that each
  // trial is seen equally often; words fall anywhere on it
  const hash = (text) => {
    let value = 2166136261;
    for (const character of text) value = Math.imul(value ^ character.codePointAt(0), 16777619);
    value = Math.imul(value ^ (value >>> 16), 2246822507);
    value = Math.imul(value ^ (value >>> 13), 3266489909);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const random = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  const shuffle = (list, draw) => {
    const mixed = [...list];
    for (let last = mixed.length - 1; last > 0; last -= 1) {
      const other = Math.floor(draw() * (last + 1));
      [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
    }
    return mixed;
  };
  const plan = (participant) => {
    const turn = /^\d{1,9}$/.test(participant) ? Number(participant) - 1 : hash(participant);
    const draw = random(hash(`${data.study} ${participant}`));
    return data.tasks.flatMap((task) => {
      const size = task.trials.length;
      const start = (((turn * task.count) % size) + size) % size;
      const own = Array.from({ length: task.count }, (_, place) => task.trials[(start + place) % size]);
      return shuffle(own, draw).map((trial) => ({ ...trial, task, shown: shuffle(trial.pictures, draw) }));
    });
  };

  // ---- the state of the page
  let trials = [];
  let person = null;
  let since = null; // when the pictures came into sight
  let interrupted = false;
  let choices = [];

  const show = (section, focus) => {
    for (const name of SECTIONS) $(name).hidden = name !== section;
    const place = person ? person.answers.length : 0;
    $("bar").hidden = section === "intro";
    $("progress").value = place;
    $("place").textContent =
      section === "end" ? `All ${trials.length} questions answered` : `Question ${place + 1} of ${trials.length}`;
    $("said").textContent = "";
    window.scrollTo(0, 0);
    focus.focus({ preventScroll: true });
  };

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  const figure = (picture, alt, caption) => {
    const made = element("figure");
    const image = element("img");
    image.src = data.pictures[picture];
    image.alt = alt;
    made.append(image);
    if (caption) made.append(element("figcaption", caption));
    return made;
  };

  const options = (trial) => {
    if (trial.task.name === "real") {
      return [
        { text: "Real", key: "1", answer: true },
        { text: "Changed", key: "2", answer: false },
      ];
    }
    if (trial.task.name === "prefer") {
      return [
        { text: "Version A", key: "1", answer: trial.shown[0] },
        { text: "Version B", key: "2", answer: trial.shown[1] },
        { text: "No difference", key: "3", answer: null, wide: true },
      ];
    }
    const named = trial.options.map((number) => data.classes[number]);
    // the class "7" has the key 7, wherever it stands
    const own = named.every((name) => [...name].length === 1) && new Set(named.map((n) => n.toLowerCase())).size === named.length;
    const made = trial.options.map((number, place) => ({
      text: named[place],
      key: own ? named[place].toLowerCase() : String((place + 1) % 10),
      alike: own,
      answer: number,
    }));
    return [...made, { text: "I can't tell", key: own && named.includes("?") ? "Escape" : "?", answer: null, wide: true }];
  };

  const showTrial = () => {
    const trial = trials[person.answers.length];
    $("question").textContent = question(trial);
    const pictures = $("pictures");
    pictures.className = trial.task.name === "prefer" ? "three" : "";
    pictures.replaceChildren(
      ...(trial.task.name === "prefer"
        ? [
            figure(trial.original, "The picture before the change", "The picture"),
            figure(trial.shown[0], "Changed version A", "Version A"),
            figure(trial.shown[1], "Changed version B", "Version B"),
          ]
        : [figure(trial.shown[0], "The picture to judge")]),
    );
    choices = options(trial);
    $("choices").className = choices.length <= 3 ? "few" : "";
    $("choices").replaceChildren(
      ...choices.map((choice) => {
        const button = element("button", undefined, [choice.wide && "wide", choice.alike && "alike"].filter(Boolean).join(" "));
        button.type = "button";
        button.setAttribute("aria-keyshortcuts", choice.key);
        const hint = element("kbd", choice.key === "Escape" ? "Esc" : choice.key);
        hint.setAttribute("aria-hidden", "true");
        hint.hidden = !memory.keys;
        button.append(hint, element("span", choice.text));
        button.addEventListener("click", () => answer(choice.answer));
        return button;
      }),
    );
    $("back").hidden = person.answers.length === 0;
    interrupted = Boolean(person.again);
    since = null;
    show("trial", $("question"));
    const images = [...pictures.querySelectorAll("img")];
    Promise.all(images.map((image) => image.decode().catch(() => {}))).then(() =>
      requestAnimationFrame(() => {
        if (trials[person?.answers.length] === trial) since = performance.now();
      }),
    );
  };

  // Before each part people read what it is about, but not again when they come back to it.
  const next = () => {
    const place = person.answers.length;
    if (place === trials.length) {
      person.finished ??= new Date().toISOString();
      keep();
      show("end", $("end-title"));
      return;
    }
    const { task } = trials[place];
    if (place === 0 || trials[place - 1].task !== task) {
      if (person.told !== task.name) {
        const number = data.tasks.indexOf(task) + 1;
        $("part-title").textContent = `Part ${number} of ${data.tasks.length}: ${task.title}`;
        $("part-text").textContent = WORDS[task.name].part;
        $("keys").checked = memory.keys;
        show("part", $("part-title"));
        return;
      }
    }
    showTrial();
  };

  const answer = (value) => {
    if (since === null) return; // the pictures are not there yet
    const trial = trials[person.answers.length];
    const seconds = Math.round(performance.now() - since) / 1000;
    since = null;
    person.answers.push({ trial: trial.id, answer: value, seconds, interrupted, shown: trial.shown });
    person.again = false;
    keep();
    next();
  };

  const back = () => {
    person.answers.pop();
    person.finished = null;
    person.again = true; // the time of a second thought says nothing
    keep();
    showTrial();
  };

  const file = () => {
    const { participant, agreed, finished, answers } = person;
    return { format: data.format, version: data.version, study: data.study, participant, agreed, finished, answers };
  };

  const save = () => {
    const link = element("a");
    const address = URL.createObjectURL(new Blob([JSON.stringify(file(), null, 1)], { type: "application/json" }));
    link.href = address;
    link.download = `answers-${person.participant.replace(/[^\w.-]+/g, "-")}.json`;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    $("said").textContent = `${person.answers.length} of ${trials.length} answers saved as ${link.download}.`;
  };

  const begin = (participant) => {
    const slot = `:${participant}`; // "__proto__" is a code like any other
    memory.people[slot] ??= { participant, agreed: new Date().toISOString(), finished: null, told: null, answers: [] };
    memory.current = slot;
    person = memory.people[slot];
    trials = plan(participant);
    // an answer is kept with its trial: a person's plan never changes, but a file may be edited
    person.again = person.answers.length > 0 && person.answers.length < trials.length;
    $("progress").max = trials.length;
    keep();
    next();
  };

  const intro = () => {
    person = null;
    memory.current = null;
    keep();
    $("start").reset();
    $("wrong").textContent = "";
    const people = Object.values(memory.people).map(({ participant }) => participant);
    $("kept").hidden = people.length === 0;
    $("kept").textContent = `Answers are kept on this device of: ${people.join(", ")}. Enter the same number or code to go on, or to save them again.`;
    show("intro", $("intro-title"));
  };

  $("start").addEventListener("submit", (event) => {
    event.preventDefault();
    const participant = $("participant").value.trim();
    const missing = participant ? (!$("agree").checked ? "agree" : null) : "participant";
    for (const name of ["participant", "agree"]) $(name).setAttribute("aria-invalid", String(name === missing));
    if (missing) {
      $("wrong").textContent =
        missing === "agree" ? "Please tick the box if you agree; without it you can't take part." : "Please enter your number or code.";
      $(missing).focus();
      return;
    }
    begin(participant);
  });
  $("go").addEventListener("click", () => {
    person.told = trials[person.answers.length].task.name;
    memory.keys = $("keys").checked;
    keep();
    showTrial();
  });
  $("back").addEventListener("click", back);
  $("reopen").addEventListener("click", back);
  $("pause").addEventListener("click", save);
  $("save").addEventListener("click", save);
  $("another").addEventListener("click", intro);

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || $("trial").hidden || !memory.keys) return;
    const choice = choices.find(({ key }) => key === event.key.toLowerCase() || key === event.key);
    if (!choice) return;
    event.preventDefault();
    answer(choice.answer);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) interrupted = true;
  });

  load();
  $("forgets").hidden = keeps;
  if (memory.current && memory.people[memory.current]) begin(memory.people[memory.current].participant);
  else intro();
})();
