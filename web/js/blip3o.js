/** What the page needs for our nodes: colours for our wires, notes on a result, and the sentence of an error. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const WIRES = {
  BLIP3O_LM: "#e0a458",
  BLIP3O_TATOK: "#6fb3d9",
  BLIP3O_TOKENS: "#d977b5",
  BLIP3O_REFERENCE: "#8fce6b",
}
const ERROR_SECONDS = 30
const [NOTES, TELLER] = ["blip3o_notes", "blip3o_teller"] // as in nodes/host/notes.py
const MARGIN = 10 // of a widget that is an element, in canvas units
const NOTE_STYLE = `
  .blip3o-notes { overflow: hidden; }
  .blip3o-notes > div {
    padding: 6px 8px; border-left: 3px solid #e0a458; border-radius: 4px; background: rgb(224 164 88 / 15%);
    color: var(--input-text, inherit); font-size: 12px; line-height: 1.4; white-space: pre-line;
    overflow-wrap: break-word; user-select: text;
  }`
const GENERATOR = "BLIP3oTokenGenerator"
const WRITING = [GENERATOR, "BLIP3oResampleTokens", "BLIP3oTextToImage", "BLIP3oImageEdit"]
const PROMPTS = ["prompt", "instruction"]
const PROMPT_HEIGHT = 110 // five lines

/** A colour of the user's palette wins; a palette without one clears the entry, which then falls back to ours. */
function addColours(table) {
  for (const [type, ours] of Object.entries(WIRES)) {
    let chosen = table[type]
    Object.defineProperty(table, type, {
      get: () => chosen || ours,
      set: (colour) => (chosen = colour),
      configurable: true,
      enumerable: true,
    })
  }
}

/** Nodes 2.0 reads its slots' colours and heights from style sheets; a palette sets colours on the root element and wins. */
function addStyles() {
  const rules = Object.entries(WIRES).map(([type, colour]) => `--color-datatype-${type}: ${colour};`)
  const style = document.createElement("style")
  const prompt = `[node-type="${GENERATOR}"] textarea { min-height: ${PROMPT_HEIGHT}px; }`
  style.textContent = `:root { ${rules.join(" ")} } ${prompt} ${NOTE_STYLE}`
  document.head.append(style)
}

/** ComfyUI's own message only says that a node failed: the sentence with the next step is behind two clicks. */
function showError({ detail }) {
  if (detail.exception_type !== "Blip3oError") return
  const title = window.LiteGraph?.registered_node_types?.[detail.node_type]?.title ?? detail.node_type
  app.extensionManager.toast.add({
    severity: "error",
    summary: title,
    detail: detail.exception_message.trim(),
    life: ERROR_SECONDS * 1000,
  })
}

/** The note as high as its text: ComfyUI's own text under a node shows two lines and hides the rest. */
function addNote(node) {
  const element = document.createElement("div")
  const text = document.createElement("div")
  element.className = "blip3o-notes"
  element.append(text)
  let height = 60 // until it is on the page
  const measured = () => (height = text.offsetHeight || height) + 2 * MARGIN
  const options = { getMinHeight: measured, getMaxHeight: measured, margin: MARGIN, hideOnZoom: false }
  const widget = node.addDOMWidget(NOTES, NOTES, element, { ...options, serialize: false })
  widget.serialize = false // neither in the workflow nor, by the option, in the prompt
  return widget
}

/** A result without notes takes those of the one before away. A one-click node shows those of every node in it. */
function showNotes(node) {
  const executed = node.onExecuted
  const told = new Map()
  node.onExecuted = function (output) {
    executed?.call(this, output)
    told.set(String(output?.[TELLER]), output?.[NOTES] ?? [])
    const notes = [...told.values()].flat()
    let widget = this.widgets?.find((one) => one.name === NOTES)
    if (notes.length) {
      widget ??= addNote(this)
      widget.element.firstChild.textContent = notes.join("\n\n")
    } else if (widget) this.removeWidget(widget)
    this.setDirtyCanvas(true, true)
  }
}

/** ComfyUI leaves a prompt two lines when the node shows a preview, and shrinks a node with a combo as it opens. */
function keepHeight(node) {
  node.widgets.find((widget) => PROMPTS.includes(widget.name)).options.getMinHeight = () => PROMPT_HEIGHT
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
  const configured = node.onConfigure
  node.onConfigure = function (saved) {
    configured?.call(this, saved)
    if (saved.size) this.setSize([this.size[0], Math.max(this.size[1], saved.size[1])])
  }
}

/**
 * A node must be the same after an undo has loaded it again: ComfyUI takes any difference for the user's next change, which
 * ends redo. Three things of its own would differ. A new node without widgets has no list of their values, but a loaded one
 * an empty list. A new node has the inputs of a choice above the choice, a loaded one below. And free height is shared out in
 * fractions, whose sum can be a hair more than the node, which then grows by it.
 */
function staySame(node) {
  node.widgets ??= []
  for (const choice of [...(node.inputs ?? [])]) {
    const [at, first] = [node.inputs.indexOf(choice), node.inputs.findIndex(({ name }) => name.startsWith(`${choice.name}.`))]
    if (first >= 0 && first < at) node.inputs.splice(first, 0, ...node.inputs.splice(at, 1))
  }
  for (const widget of node.widgets.filter((one) => one.computeLayoutSize)) {
    let height = widget.computedHeight
    Object.defineProperty(widget, "computedHeight", {
      get: () => height,
      set: (share) => (height = share && Math.floor(share)),
      configurable: true,
      enumerable: true,
    })
  }
}

app.registerExtension({
  name: "BLIP3o-NEXT",
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("BLIP3o")) {
      showNotes(node)
      staySame(node)
    }
    if (WRITING.includes(node.comfyClass)) keepHeight(node)
  },
  setup() {
    addColours(window.LGraphCanvas.link_type_colors)
    addColours(app.canvas.default_connection_color_byType)
    addStyles()
    api.addEventListener("execution_error", showError)
  },
})
