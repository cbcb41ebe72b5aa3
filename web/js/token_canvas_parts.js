/** What the token canvas is made of: its buttons, their icons, and its style. */

const svg = (path) =>
  `<svg viewBox="0 0 16 16" width="14" height="14" fill="none" stroke="currentColor" stroke-width="1.5" ` +
  `stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${path}</svg>`

export const ICONS = {
  mark: svg('<path d="M2.5 13.5l.8-3.2 7.6-7.6 2.4 2.4-7.6 7.6z"/>'),
  erase: svg('<path d="M6 13.5h7.5M2.5 9.5l6-6 4.5 4.5-5.5 5.5H6z"/>'),
  undo: svg('<path d="M5.5 3L2.5 6l3 3M3 6h6.5a3.5 3.5 0 010 7H6"/>'),
  redo: svg('<path d="M10.5 3l3 3-3 3M13 6H6.5a3.5 3.5 0 000 7H10"/>'),
  invert: svg('<rect x="2.5" y="2.5" width="11" height="11"/><path d="M13.5 2.5v11h-11z" fill="currentColor"/>'),
  clear: svg('<path d="M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.5 9h6l.5-9"/>'),
}

/** `label`: an icon or a text; `name`: what the button does, for the pointer and for screen readers. */
export function button(label, name, act) {
  const one = document.createElement("button")
  one.type = "button"
  one.innerHTML = label
  one.title = name
  one.setAttribute("aria-label", name)
  one.addEventListener("click", (event) => {
    event.stopPropagation()
    act()
  })
  return one
}

/** Which image of a batch is shown: `turn(by)` is called for another one; nothing to see for a single image. */
export function pager(words, turn) {
  const element = document.createElement("span")
  const page = document.createElement("span")
  element.append(
    button("‹", words.previous, () => turn(-1)),
    page,
    button("›", words.next, () => turn(1)),
  )
  const show = (index, count) => {
    element.hidden = count < 2
    page.textContent = `${index + 1} / ${count}`
  }
  return { element, show }
}

export const STYLE = `
  .blip3o-canvas { display: flex; flex-direction: column; gap: 4px; min-height: 310px; width: 100%; height: 100%;
    box-sizing: border-box; color: var(--input-text, #ddd); font-size: 12px; line-height: 18px; }
  .blip3o-tools { display: flex; flex-wrap: wrap; gap: 4px 10px; }
  .blip3o-tools > span { display: flex; gap: 2px; }
  .blip3o-canvas button { display: inline-flex; align-items: center; justify-content: center; min-width: 24px;
    height: 24px; padding: 0 4px; border: 1px solid transparent; border-radius: 4px; cursor: pointer;
    color: inherit; background: var(--comfy-input-bg, #333); font: inherit; }
  .blip3o-canvas button:hover:not(:disabled) { border-color: currentColor; }
  .blip3o-canvas button:disabled { opacity: 0.35; cursor: default; }
  .blip3o-canvas button[aria-pressed="true"] { color: #fff; background: #a8447f; }
  .blip3o-canvas button:focus-visible, .blip3o-canvas canvas:focus-visible { outline: 2px solid #d977b5; }
  .blip3o-canvas canvas { flex: 1 1 0; min-height: 0; width: 100%; border-radius: 4px; touch-action: none;
    cursor: crosshair; background: var(--comfy-input-bg, #222); }
  .blip3o-foot { display: flex; justify-content: space-between; gap: 8px; min-height: 24px; align-items: center; }
  .blip3o-foot > span:first-child { overflow-wrap: anywhere; }
  .blip3o-foot > span:last-child { display: flex; align-items: center; gap: 4px; white-space: nowrap; }
  .blip3o-foot > span[hidden] { display: none; }
  /* Nodes 2.0 shows a preview while tokens are written below the node's widgets; it is on the canvas. */
  .lg-node-widgets:has(.blip3o-canvas) ~ img, .lg-node-widgets:has(.blip3o-canvas) ~ img + div { display: none; }`
