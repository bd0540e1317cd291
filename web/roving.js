// A table of which one cell has the focus: one stop of the Tab key, arrows go from cell to cell.

// container: a new element each time. rows: lists of focusable elements, gaps (undefined) allowed. chosen(row, column) is told of each move.
export function roving(container, rows, chosen) {
  const cells = rows.flat().filter(Boolean);
  const place = (cell) => {
    const row = rows.findIndex((each) => each.includes(cell));
    return [row, row < 0 ? -1 : rows[row].indexOf(cell)];
  };
  const hold = (cell) => {
    for (const other of cells) other.tabIndex = other === cell ? 0 : -1;
  };
  if (cells.length) hold(cells[0]);
  container.addEventListener("focusin", (raised) => {
    const cell = cells.find((each) => each === raised.target);
    if (!cell) return;
    hold(cell);
    chosen(...place(cell));
  });
  container.addEventListener("keydown", (raised) => {
    const [row, column] = place(raised.target);
    if (row < 0 || raised.ctrlKey || raised.metaKey || raised.altKey) return;
    const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    let next;
    if (steps[raised.key]) {
      const [down, right] = steps[raised.key];
      let [at, to] = [row + down, column + right];
      // Over a gap to the next cell in this direction.
      while (rows[at] && to >= 0 && to < rows[at].length && !rows[at][to]) [at, to] = [at + down, to + right];
      next = rows[at]?.[to];
    } else if (raised.key === "Home") next = rows[row].find(Boolean);
    else if (raised.key === "End") next = rows[row].findLast(Boolean);
    else return;
    raised.preventDefault();
    next?.focus();
  });
}
