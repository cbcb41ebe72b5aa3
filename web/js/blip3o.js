/** What the page needs for our nodes: colours for our wires, and the sentence of an error where the user looks. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const WIRES = {
  BLIP3O_LM: "#e0a458",
  BLIP3O_TATOK: "#6fb3d9",
  BLIP3O_TOKENS: "#d977b5",
  BLIP3O_REFERENCE: "#8fce6b",
}
const ERROR_SECONDS = 30

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

/** Nodes 2.0 reads its slots' colours from style sheets; a palette sets them on the root element and wins. */
function addStyles() {
  const rules = Object.entries(WIRES).map(([type, colour]) => `--color-datatype-${type}: ${colour};`)
  const style = document.createElement("style")
  style.textContent = `:root { ${rules.join(" ")} }`
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

/** ComfyUI shrinks a node when a combo with inputs of its own gets its saved value: the prompt would be two lines. */
function keepHeight(node) {
  const configured = node.onConfigure
  node.onConfigure = function (saved) {
    configured?.call(this, saved)
    if (saved.size) this.setSize([this.size[0], Math.max(this.size[1], saved.size[1])])
  }
}

app.registerExtension({
  name: "BLIP3o-NEXT",
  nodeCreated(node) {
    if (node.comfyClass === "BLIP3oTokenGenerator") keepHeight(node)
  },
  setup() {
    addColours(window.LGraphCanvas.link_type_colors)
    addColours(app.canvas.default_connection_color_byType)
    addStyles()
    api.addEventListener("execution_error", showError)
  },
})
