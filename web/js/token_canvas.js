/** The canvas of BLIP3o Re-sample Tokens: brush the cells of the token grid, over the image, that Run writes again. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { between, brushed, marksText, parseMarks } from "./cells.js"
import { imageBehind, place, runsAs } from "./downstream.js"
import { texts } from "./texts.js"
import { button, ICONS, pager, STYLE } from "./token_canvas_parts.js"
import { showBrush, showGrid, showImage, showMarks } from "./token_canvas_view.js"

const NODE = "BLIP3oResampleTokens"
const WIDGET = "canvas"
const SHOWN = "blip3o_tokens" // as in nodes/host/resample.py
const TOKENS = 0 // the output
const SIZES = [1, 3, 5]
const MIN_HEIGHT = 330 // of the widget, in canvas units
const MIN_WIDTH = 340 // of the node
const ACROSS = 8 // images of a batch side by side in a preview, as in blip3o_core/tokens/colours.py
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }

const canvases = new Set()
let words = {}

class TokenCanvas {
  constructor(node) {
    this.node = node
    this.marks = node.widgets.find((widget) => widget.name === "marks")
    this.cells = new Set()
    this.past = []
    this.future = []
    this.size = SIZES[1]
    this.erasing = false
    this.index = 0 // which image of a batch
    this.build()
    this.read()
  }

  build() {
    this.element = document.createElement("div")
    this.element.className = "blip3o-canvas"
    const tools = document.createElement("div")
    tools.className = "blip3o-tools"
    tools.setAttribute("role", "toolbar")
    tools.setAttribute("aria-label", words.title)
    const group = (...parts) => {
      const one = document.createElement("span")
      one.append(...parts)
      tools.append(one)
    }
    this.tools = [false, true].map((erasing) =>
      button(erasing ? ICONS.erase : ICONS.mark, erasing ? words.erase : words.mark, () => this.choose({ erasing })),
    )
    this.sizes = SIZES.map((size) => button(size, `${words.size} ${size}`, () => this.choose({ size })))
    this.undoButton = button(ICONS.undo, words.undo, () => this.travel(this.past, this.future))
    this.redoButton = button(ICONS.redo, words.redo, () => this.travel(this.future, this.past))
    this.clearButton = button(ICONS.clear, words.clear, () => this.write(new Set()))
    this.invertButton = button(ICONS.invert, words.invert, () => this.invert())
    group(...this.tools)
    group(...this.sizes)
    group(this.undoButton, this.redoButton)
    group(this.invertButton, this.clearButton)
    this.stage = document.createElement("canvas")
    this.stage.tabIndex = 0
    this.stage.setAttribute("role", "application")
    this.stage.setAttribute("aria-label", `${words.title}. ${words.help}`)
    this.stage.title = words.help
    const foot = document.createElement("div")
    foot.className = "blip3o-foot"
    this.status = document.createElement("span")
    this.status.setAttribute("role", "status")
    this.pager = pager(words, (by) => this.show(this.index + by))
    foot.append(this.status, this.pager.element)
    this.element.append(tools, this.stage, foot)
    this.listen()
    this.choose({})
    this.observer = new ResizeObserver(() => this.draw())
    this.observer.observe(this.stage)
  }

  listen() {
    const on = (kind, act) => this.stage.addEventListener(kind, (event) => act.call(this, event))
    on("pointerdown", this.press)
    on("pointermove", this.move)
    on("pointerup", this.release)
    on("pointercancel", this.release)
    on("pointerenter", this.refresh)
    on("pointerleave", () => this.point(null))
    on("keydown", this.key)
    on("blur", () => this.point(null))
    on("contextmenu", (event) => {
      event.preventDefault()
      event.stopPropagation()
    })
    // In Nodes 2.0 the page itself passes the wheel on to the graph.
    this.element.addEventListener("wheel", (event) => {
      if (window.LiteGraph.vueNodesMode) return
      event.preventDefault()
      app.canvas.processMouseWheel(event)
    })
  }

  /** Marks, grid, codes and image as they are now: the widget and the last result decide. */
  refresh() {
    this.read()
    this.result = app.nodeOutputs[place(this.node)]?.[SHOWN]?.[0]
    this.index = Math.max(0, Math.min(this.index, (this.result?.codes.length ?? 1) - 1))
    const address = this.live ?? (this.result && imageBehind(this.node, TOKENS, this.index))
    if (address !== this.address) {
      this.address = address
      this.image = undefined
      if (address) {
        const image = new Image()
        image.onload = () => {
          if (this.address !== address) return
          this.image = image
          this.draw()
        }
        image.src = address
      }
    }
    this.draw()
  }

  get grid() {
    return this.result?.grid ?? this.parsed?.grid
  }

  /** A link sets the marks: the brush would change nothing. */
  get linked() {
    return this.node.inputs?.some((input) => input.widget?.name === "marks" && input.link != null) ?? false
  }

  /** Marks that this grid does not have, or that cannot be read. */
  get foreign() {
    const { parsed, result } = this
    return parsed === undefined || (parsed && result && String(parsed.grid) !== String(result.grid))
  }

  /** Takes the widget's value over, whoever changed it. */
  read() {
    const text = this.marks.value ?? ""
    if (text === this.text) return
    if (this.text !== undefined) {
      this.past.push(this.text)
      this.future.length = 0
    }
    this.take(text)
  }

  take(text) {
    this.text = text
    this.parsed = parseMarks(text)
    this.cells = new Set(this.parsed?.cells)
  }

  /** Makes `cells` the widget's value: a step that can be undone, and part of the workflow. */
  write(cells) {
    this.set(cells.size ? marksText(this.grid, cells) : "")
  }

  set(text) {
    if (text !== this.marks.value) {
      this.marks.value = text
      this.marks.callback?.(text)
      this.node.graph?.setDirtyCanvas(true, true)
      app.extensionManager.workflow.activeWorkflow?.changeTracker?.captureCanvasState?.() // ComfyUI's own undo
    }
    this.read()
    this.draw()
  }

  travel(from, to) {
    const text = from.pop()
    if (text === undefined) return
    to.push(this.text)
    this.take(text) // before the widget has it: no new step
    this.set(text)
  }

  invert() {
    if (!this.grid) return
    const all = Array.from({ length: this.grid[0] * this.grid[1] }, (_, cell) => cell)
    this.write(new Set(all.filter((cell) => !this.cells.has(cell))))
  }

  choose({ size = this.size, erasing = this.erasing }) {
    Object.assign(this, { size, erasing })
    for (const [k, one] of this.tools.entries()) one.setAttribute("aria-pressed", String((k === 1) === erasing))
    for (const [k, one] of this.sizes.entries()) one.setAttribute("aria-pressed", String(SIZES[k] === size))
  }

  show(index) {
    this.index = index
    this.refresh()
  }

  /** The part of the image that is shown, in its pixels: a preview has all images of a batch beside each other. */
  get crop() {
    if (!this.image) return undefined
    const { naturalWidth, naturalHeight } = this.image
    const count = this.image.src === this.live ? (this.result?.images ?? 1) : 1
    const [across, lines] = [Math.min(count, ACROSS), Math.ceil(count / ACROSS)]
    const [width, height] = [naturalWidth / across, naturalHeight / lines]
    return { x: (this.index % ACROSS) * width, y: Math.floor(this.index / ACROSS) * height, width, height }
  }

  /** Where the image lies on the stage: {x, y, width, height} in CSS pixels. */
  get box() {
    const [rows, columns] = this.grid
    const { width: w, height: h } = this.crop ?? { width: columns, height: rows }
    const ratio = w / h
    const { clientWidth, clientHeight } = this.stage
    const width = Math.min(clientWidth, clientHeight * ratio)
    const height = width / ratio
    return { x: (clientWidth - width) / 2, y: (clientHeight - height) / 2, width, height }
  }

  /** [row, column] under the pointer, at any zoom; null outside. */
  cellAt(event, clamp = false) {
    if (!this.grid) return null
    const [rows, columns] = this.grid
    const { left, top, width } = this.stage.getBoundingClientRect()
    const zoom = width / this.stage.clientWidth
    const { x, y, width: w, height: h } = this.box
    let row = Math.floor((((event.clientY - top) / zoom - y) / h) * rows)
    let column = Math.floor((((event.clientX - left) / zoom - x) / w) * columns)
    if (clamp) {
      row = Math.max(0, Math.min(rows - 1, row))
      column = Math.max(0, Math.min(columns - 1, column))
    }
    return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null
  }

  press(event) {
    const isPlacing = app.canvas.state?.ghostNodeId != null // a new node hangs on the pointer: a click puts it down
    if (event.button === 1 || isPlacing) return app.canvas.processMouseDown(event)
    event.stopPropagation()
    const cell = this.cellAt(event)
    if (!cell || event.button > 2 || this.linked || this.foreign) return
    this.stage.focus({ preventScroll: true })
    this.stage.setPointerCapture(event.pointerId)
    this.stroke = { last: cell, erase: event.button === 2 || event.shiftKey || this.erasing }
    this.paint([cell])
  }

  move(event) {
    if (event.buttons & 4) return app.canvas.processMouseMove(event)
    const cell = this.cellAt(event, Boolean(this.stroke))
    if (this.stroke && cell) {
      this.paint(between(this.stroke.last, cell))
      this.stroke.last = cell
    }
    this.point(cell)
  }

  release(event) {
    if (event.button === 1) return app.canvas.processMouseUp(event)
    if (!this.stroke) return
    this.stroke = undefined
    this.write(this.cells)
  }

  paint(places) {
    for (const [row, column] of places)
      for (const cell of brushed(this.grid, row, column, this.size))
        this.stroke.erase ? this.cells.delete(cell) : this.cells.add(cell)
    this.draw()
  }

  key(event) {
    if (!this.grid || event.ctrlKey || event.metaKey || event.altKey) return
    const [rows, columns] = this.grid
    const [row, column] = this.pointed ?? [0, 0]
    if (event.key in ARROWS) {
      const [down, right] = this.pointed ? ARROWS[event.key] : [0, 0]
      this.point([Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + right))])
    } else if (event.key === " " || event.key === "Enter") {
      if (this.linked || this.foreign || !this.pointed) return
      const erase = event.shiftKey || this.erasing || this.cells.has(row * columns + column)
      this.stroke = { erase }
      this.paint([[row, column]])
      this.stroke = undefined
      this.write(this.cells)
    } else return
    event.preventDefault()
    event.stopPropagation()
  }

  point(cell) {
    this.pointed = cell
    this.draw()
  }

  /** The row, column and code under the pointer; otherwise how many cells are marked, or what is in the way. */
  describe() {
    if (!this.grid) return words.empty
    if (this.foreign) return words.foreign
    const [rows, columns] = this.grid
    if (this.pointed) {
      const [row, column] = this.pointed
      const code = this.result?.codes[this.index]?.[row * columns + column]
      const place = `${words.row} ${row} · ${words.column} ${column} · ${words.token} ${row * columns + column}`
      return code === undefined ? place : `${place} · ${words.code} ${code}`
    }
    if (this.linked) return words.linked
    return `${this.cells.size} / ${rows * columns} ${words.marked}`
  }

  draw() {
    cancelAnimationFrame(this.frame)
    this.frame = requestAnimationFrame(() => this.drawNow())
  }

  drawNow() {
    this.status.textContent = this.describe()
    this.pager.show(this.index, this.result?.codes.length ?? 1)
    this.undoButton.disabled = !this.past.length
    this.redoButton.disabled = !this.future.length
    this.clearButton.disabled = !this.marks.value || this.linked
    this.invertButton.disabled = !this.grid || this.linked || this.foreign
    const { clientWidth, clientHeight } = this.stage
    if (!clientWidth || !clientHeight) return
    const zoom = this.stage.getBoundingClientRect().width / clientWidth
    const sharp = window.devicePixelRatio * Math.max(1, Math.min(3, zoom))
    this.stage.width = Math.round(clientWidth * sharp)
    this.stage.height = Math.round(clientHeight * sharp)
    if (!this.grid) return
    const context = this.stage.getContext("2d")
    context.scale(sharp, sharp)
    const place = { grid: this.grid, box: this.box }
    showImage(context, { ...place, image: this.image, crop: this.crop, colours: this.result?.colours[this.index] })
    if (this.foreign) return
    showGrid(context, place)
    showMarks(context, { ...place, cells: this.cells })
    if (this.pointed) showBrush(context, { ...place, cells: brushed(this.grid, ...this.pointed, this.size) })
  }
}

/** A preview while tokens are written, shown on the canvas; it goes away with the result or the end of the run. */
function showLive({ detail }) {
  for (const canvas of canvases) {
    if (!runsAs(canvas.node, detail.displayNodeId ?? detail.nodeId)) continue
    if (canvas.live) URL.revokeObjectURL(canvas.live)
    canvas.live = URL.createObjectURL(detail.blob)
    canvas.refresh()
  }
}

function refreshAll() {
  for (const canvas of canvases) canvas.refresh()
}

function endLive() {
  for (const canvas of canvases) {
    if (canvas.live) URL.revokeObjectURL(canvas.live)
    canvas.live = undefined
  }
  refreshAll()
}

function addCanvas(node) {
  const canvas = new TokenCanvas(node)
  const options = { getMinHeight: () => MIN_HEIGHT, hideOnZoom: false, serialize: false }
  const widget = node.addDOMWidget(WIDGET, WIDGET, canvas.element, options)
  widget.serialize = false // its value is that of the widget `marks`
  canvases.add(canvas)
  const changed = canvas.marks.callback
  canvas.marks.callback = function (...values) {
    changed?.apply(this, values)
    canvas.refresh()
  }
  const { onConfigure, onRemoved } = node
  node.onConfigure = function (saved) {
    onConfigure?.call(this, saved)
    Object.assign(canvas, { text: undefined, past: [], future: [] }) // what was saved is no step to undo
    canvas.refresh()
  }
  node.onRemoved = function () {
    onRemoved?.call(this)
    canvas.observer.disconnect()
    canvases.delete(canvas)
  }
  node.onDrawBackground = () => {} // the live preview is on the canvas, not below it
  node.setSize([Math.max(node.size[0], MIN_WIDTH), Math.max(node.size[1], node.computeSize()[1])])
}

app.registerExtension({
  name: "BLIP3o-NEXT.TokenCanvas",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addCanvas(node)
  },
  async setup() {
    words = await texts("canvas")
    const style = document.createElement("style")
    style.textContent = STYLE
    document.head.append(style)
    api.addEventListener("b_preview_with_metadata", showLive)
    for (const kind of ["executed", "graphChanged"]) api.addEventListener(kind, refreshAll)
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(kind, endLive)
  },
})
