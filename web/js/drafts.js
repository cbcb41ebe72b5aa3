/** BLIP3o Choose Draft: the drafts as buttons on the node; a click sets `choice`. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

// As in nodes/host/drafts.py.
const [DRAFTS, CHOICE, SCORES] = ["blip3o_drafts", "blip3o_choice", "blip3o_scores"]
const MARGIN = 10 // of a widget that is an element, in canvas units
const STYLE = `
  .blip3o-drafts { display: grid; gap: 6px; align-content: start; overflow: hidden; }
  .blip3o-drafts button {
    position: relative; padding: 0; border: 3px solid transparent; border-radius: 6px; overflow: hidden;
    background: none; cursor: pointer; aspect-ratio: 1; min-width: 0;
  }
  .blip3o-drafts button[aria-checked="true"] { border-color: #d977b5; }
  .blip3o-drafts button:focus-visible { outline: 2px solid #6fb3d9; outline-offset: 1px; }
  .blip3o-drafts img { width: 100%; height: 100%; object-fit: contain; display: block; pointer-events: none; }
  .blip3o-drafts span {
    position: absolute; left: 0; bottom: 0; padding: 1px 6px; font-size: 12px; color: #fff; background: rgb(0 0 0 / 60%);
  }`

const choiceOf = (node) => node.widgets.find((widget) => widget.name === "choice")

function addGrid(node) {
  const element = document.createElement("div")
  element.className = "blip3o-drafts"
  element.setAttribute("role", "radiogroup")
  element.setAttribute("aria-label", "Drafts")
  for (const kind of ["pointerdown", "keydown"]) element.addEventListener(kind, (event) => event.stopPropagation())
  element.addEventListener("keydown", (event) => moveFocus(element, event))
  const widget = node.addDOMWidget("drafts", DRAFTS, element, {
    getMinHeight: () => heightOf(node, element),
    margin: MARGIN,
    hideOnZoom: false,
    serialize: false,
  })
  widget.serialize = false // neither in the workflow nor, by the option, in the prompt
  makeRoom(node) // as when it is loaded: another size then would be a change that ends ComfyUI's redo
  return widget
}

function makeRoom(node) {
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
}

const columnsOf = (count) => Math.ceil(Math.sqrt(count))

/** Square cells, as wide as the node lets them be; a whole number, which sums keep exactly. */
function heightOf(node, element) {
  const count = element.children.length
  if (!count) return 0
  const columns = columnsOf(count)
  return Math.ceil((Math.ceil(count / columns) * (node.size[0] - 2 * MARGIN)) / columns) + 2 * MARGIN
}

/** Arrow keys go from draft to draft, as in any group of choices; Enter and the space bar choose. */
function moveFocus(element, event) {
  const step = { ArrowRight: 1, ArrowDown: columnsOf(element.children.length), ArrowLeft: -1 }[event.key]
  const by = step ?? (event.key === "ArrowUp" ? -columnsOf(element.children.length) : 0)
  const buttons = [...element.children]
  const target = buttons[buttons.indexOf(document.activeElement) + by]
  if (!by || !target) return
  event.preventDefault()
  target.focus()
}

function mark(element, choice) {
  ;[...element.children].forEach((button, k) => button.setAttribute("aria-checked", String(k + 1 === choice)))
}

/** A click on the chosen draft takes the choice back. */
function choose(node, number) {
  const widget = choiceOf(node)
  widget.value = widget.value === number ? 0 : number
  widget.callback?.(widget.value)
  node.graph?.setDirtyCanvas(true, true)
}

function show(node, element, output) {
  const drafts = output[DRAFTS]
  const scores = output[SCORES] ?? []
  element.style.gridTemplateColumns = `repeat(${columnsOf(drafts.length)}, 1fr)`
  element.replaceChildren(
    ...drafts.map((place, k) => {
      const button = document.createElement("button")
      const image = document.createElement("img")
      const label = document.createElement("span")
      button.type = "button"
      button.setAttribute("role", "radio")
      const score = scores[k] ?? null // none where the reward cannot judge the draft
      label.textContent = score === null ? String(k + 1) : `${k + 1}: ${Number(score.toPrecision(4))}`
      image.alt = `Draft ${label.textContent}`
      image.src = api.apiURL(`/view?${new URLSearchParams(place)}`)
      button.append(image, label)
      button.addEventListener("click", () => choose(node, k + 1))
      return button
    })
  )
  mark(element, output[CHOICE]?.[0] ?? 0)
  makeRoom(node)
  node.setDirtyCanvas(true, true)
}

app.registerExtension({
  name: "BLIP3o-NEXT.drafts",
  nodeCreated(node) {
    if (node.comfyClass !== "BLIP3oChooseDraft") return
    const element = addGrid(node).element
    const choice = choiceOf(node)
    const changed = choice.callback
    choice.callback = function (value, ...rest) {
      mark(element, value)
      return changed?.call(this, value, ...rest)
    }
    const executed = node.onExecuted
    node.onExecuted = function (output) {
      executed?.call(this, output)
      if (output?.[DRAFTS]) show(this, element, output)
    }
  },
  setup() {
    const style = document.createElement("style")
    style.textContent = STYLE
    document.head.append(style)
  },
})
