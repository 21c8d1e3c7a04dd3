// A name in a column and its twins in the other two: shown by pointing at it, by a click, which
// keeps them shown, or by the arrow keys in a column. The page says all it has to say without.
"use strict";

for (const block of document.querySelectorAll(".columns")) {
  const names = [...block.querySelectorAll(".twin")];
  let kept = null;

  const things = (name) => name.dataset.things.split(" ");

  const show = (name) => {
    const wanted = name ? things(name) : [];
    for (const other of names) {
      other.classList.toggle("shown", things(other).some((thing) => wanted.includes(thing)));
      other.classList.toggle("chosen", other === name);
    }
  };

  block.addEventListener("pointerover", (event) => show(event.target.closest(".twin") ?? kept));
  block.addEventListener("pointerleave", () => show(kept));
  block.addEventListener("click", (event) => {
    const name = event.target.closest(".twin");
    kept = name === kept ? null : name;
    show(kept);
  });
  block.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const column = event.target.closest("pre");
    if (event.key === "Escape") {
      kept = null;
    } else if (step && column) {
      const own = names.filter((name) => column.contains(name));
      const place = own.indexOf(kept);
      kept = place < 0 ? own[0] : own[(place + step + own.length) % own.length];
      kept?.scrollIntoView({ block: "nearest" });
      event.preventDefault();
    } else {
      return;
    }
    show(kept);
  });
}
