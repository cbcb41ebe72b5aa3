/** Marked cells of a grid as text, as in blip3o_core/tokens/marks.py: "27x27: 3-7, 30". */

const FORM = /^\s*(?:v1\s+)?(\d{1,5})x(\d{1,5})\s*:([\d\s,-]*)$/
const RANGE = /^\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*$/

/** {grid: [rows, columns], cells: Set}; null where nothing is marked, undefined for a text that cannot be read. */
export function parseMarks(text) {
  if (!text?.trim()) return null
  const found = FORM.exec(text)
  if (!found) return undefined
  const grid = [Number(found[1]), Number(found[2])]
  const cells = new Set()
  for (const part of found[3].split(",")) {
    if (!part.trim()) continue
    const range = RANGE.exec(part)
    if (!range) return undefined
    const first = Number(range[1])
    const last = Number(range[2] ?? range[1])
    if (last < first || last >= grid[0] * grid[1]) return undefined
    for (let cell = first; cell <= last; cell++) cells.add(cell)
  }
  return { grid, cells }
}

/** No cells are no text. */
export function marksText(grid, cells) {
  if (!cells.size) return ""
  const ranges = []
  for (const cell of [...cells].sort((one, other) => one - other)) {
    const last = ranges.at(-1)
    if (last && last[1] === cell - 1) last[1] = cell
    else ranges.push([cell, cell])
  }
  return `${grid[0]}x${grid[1]}: ${ranges.map(([a, b]) => (a === b ? a : `${a}-${b}`)).join(", ")}`
}

/** The cells of a square brush of `size` around (row, column), inside the grid. */
export function brushed([rows, columns], row, column, size) {
  const half = (size - 1) / 2
  const cells = []
  for (let y = Math.max(0, row - half); y <= Math.min(rows - 1, row + half); y++)
    for (let x = Math.max(0, column - half); x <= Math.min(columns - 1, column + half); x++) cells.push(y * columns + x)
  return cells
}

/** The places on the way from one cell to another, the first left out: a fast hand skips none. */
export function between([fromRow, fromColumn], [row, column]) {
  const steps = Math.max(Math.abs(row - fromRow), Math.abs(column - fromColumn), 1)
  return Array.from({ length: steps }, (_, k) => [
    Math.round(fromRow + ((row - fromRow) * (k + 1)) / steps),
    Math.round(fromColumn + ((column - fromColumn) * (k + 1)) / steps),
  ])
}
