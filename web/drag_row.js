// Drags a row by its grip. The rows around it change places while it stays in hand, so that it keeps the pointer.

const EDGE = 24; // pixels near the end of the list in which it scrolls
const SCROLL = 8;

// view: {element, grip}. rows: place(), count(), views, list, move(from, to, done).
export function dragRow(view, rows) {
  const { grip, element } = view;
  let start = null;
  grip.addEventListener("pointerdown", (raised) => {
    if (raised.button !== 0) return;
    grip.setPointerCapture(raised.pointerId);
    start = { place: rows.place(), pointer: raised.pointerId };
    element.classList.add("loom-dragged");
  });
  grip.addEventListener("pointermove", (raised) => {
    if (!start) return;
    scroll(rows.list, raised.clientY);
    for (let way = wayOf(raised.clientY); way !== 0; way = wayOf(raised.clientY)) rows.move(rows.place(), rows.place() + way, false);
  });
  const end = () => {
    if (!start) return;
    const from = start.place;
    start = null;
    element.classList.remove("loom-dragged");
    if (rows.place() !== from) rows.move(rows.place(), rows.place());
  };
  grip.addEventListener("pointerup", end);
  grip.addEventListener("pointercancel", end);

  // Past the middle of a neighbour, seen from where this row would then lie.
  function wayOf(y) {
    const place = rows.place();
    const own = element.getBoundingClientRect();
    const below = rows.views[place + 1]?.element.getBoundingClientRect();
    const above = rows.views[place - 1]?.element.getBoundingClientRect();
    if (below && y > own.top + below.height + own.height * 0.25 && y > below.top + below.height * 0.5) return 1;
    if (above && y < own.bottom - above.height - own.height * 0.25 && y < above.top + above.height * 0.5) return -1;
    return 0;
  }
}

function scroll(list, y) {
  const box = list.getBoundingClientRect();
  if (y < box.top + EDGE) list.scrollTop -= SCROLL;
  else if (y > box.bottom - EDGE) list.scrollTop += SCROLL;
}
