/** What the token canvas shows, on a 2D context in CSS pixels. `grid`: [rows, columns]; `box`: the image's place. */

const LINES_FROM = 5 // px of a cell; smaller ones have no lines between them
const MARK = "rgb(217 119 181 / 55%)"

/** The image, or without one a colour for each token; `crop`: the part of it, in its pixels. */
export function showImage(context, { grid, box, image, crop, colours }) {
  const { x, y, width, height } = box
  context.fillStyle = "#808080"
  context.fillRect(x, y, width, height)
  if (image) {
    context.drawImage(image, crop.x, crop.y, crop.width, crop.height, x, y, width, height)
    return
  }
  for (let cell = 0; colours && cell < colours.length / 6; cell++) {
    context.fillStyle = `#${colours.slice(6 * cell, 6 * cell + 6)}`
    const { left, top, wide, high } = cellBox(grid, box, cell)
    context.fillRect(left, top, wide + 0.5, high + 0.5)
  }
}

function cellBox([rows, columns], { x, y, width, height }, cell) {
  const [row, column] = [Math.floor(cell / columns), cell % columns]
  const [wide, high] = [width / columns, height / rows]
  return { row, column, left: x + column * wide, top: y + row * high, wide, high }
}

/** Thin lines, dark and light, so that they are seen on every image. */
export function showGrid(context, { grid, box }) {
  const [rows, columns] = grid
  const { x, y, width, height } = box
  const { wide, high } = cellBox(grid, box, 0)
  if (Math.min(wide, high) < LINES_FROM) return
  context.lineWidth = 0.5
  for (const [shift, colour] of [
    [0, "rgb(0 0 0 / 35%)"],
    [0.5, "rgb(255 255 255 / 35%)"],
  ]) {
    context.strokeStyle = colour
    context.beginPath()
    for (let row = 0; row <= rows; row++) {
      context.moveTo(x, y + row * high + shift)
      context.lineTo(x + width, y + row * high + shift)
    }
    for (let column = 0; column <= columns; column++) {
      context.moveTo(x + column * wide + shift, y)
      context.lineTo(x + column * wide + shift, y + height)
    }
    context.stroke()
  }
}

/** The marked cells, with a line around each region. */
export function showMarks(context, { grid, box, cells }) {
  const [rows, columns] = grid
  const marked = (row, column) =>
    row >= 0 && column >= 0 && row < rows && column < columns && cells.has(row * columns + column)
  const edges = new Path2D()
  const edge = (...points) => {
    edges.moveTo(points[0], points[1])
    edges.lineTo(points[2], points[3])
  }
  context.fillStyle = MARK
  for (const cell of cells) {
    const { row, column, left, top, wide, high } = cellBox(grid, box, cell)
    const [right, bottom] = [left + wide, top + high]
    context.fillRect(left, top, wide, high)
    if (!marked(row - 1, column)) edge(left, top, right, top)
    if (!marked(row + 1, column)) edge(left, bottom, right, bottom)
    if (!marked(row, column - 1)) edge(left, top, left, bottom)
    if (!marked(row, column + 1)) edge(right, top, right, bottom)
  }
  outline(context, edges)
}

/** A dashed line around the cells that the brush covers. */
export function showBrush(context, { grid, box, cells }) {
  const [first, last] = [cells[0], cells.at(-1)].map((cell) => cellBox(grid, box, cell))
  const path = new Path2D()
  path.rect(first.left, first.top, last.left + last.wide - first.left, last.top + last.high - first.top)
  context.setLineDash([4, 3])
  outline(context, path)
  context.setLineDash([])
}

function outline(context, path) {
  context.lineCap = "square"
  for (const [width, colour] of [
    [3, "rgb(0 0 0 / 80%)"],
    [1.25, "#fff"],
  ]) {
    context.lineWidth = width
    context.strokeStyle = colour
    context.stroke(path)
  }
}
