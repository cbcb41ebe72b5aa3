/** BLIP3o Load Tokens: a button that uploads a file into ComfyUI's input folder and chooses it. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const END = ".tokens.safetensors" // as in nodes/token_files.py

/** ComfyUI takes any file where it takes images. Gives the name that the list knows it by. */
async function upload(file) {
  if (!file.name.endsWith(END)) throw new Error(`its name must end with ${END}`)
  const body = new FormData()
  body.append("image", file)
  const answer = await api.fetchApi("/upload/image", { method: "POST", body })
  if (answer.status !== 200) throw new Error(`${answer.status} ${answer.statusText}`)
  return (await answer.json()).name
}

function pick(node) {
  const input = document.createElement("input")
  input.type = "file"
  input.accept = END
  input.addEventListener("change", async () => {
    try {
      const name = await upload(input.files[0])
      const list = node.widgets.find((widget) => widget.name === "file")
      if (!list.options.values.includes(name)) list.options.values.push(name)
      list.value = name
      list.callback?.(name)
      node.graph?.setDirtyCanvas(true, true)
    } catch (error) {
      const detail = `The file was not uploaded: ${error.message}. Rename it, or copy it into ComfyUI's input folder and press R.`
      app.extensionManager.toast.add({ severity: "error", summary: node.title, detail, life: 30000 })
    }
  })
  input.click()
}

app.registerExtension({
  name: "BLIP3o-NEXT.token-files",
  nodeCreated(node) {
    if (node.comfyClass !== "BLIP3oLoadTokens") return
    const button = node.addWidget("button", "upload", null, () => pick(node), { serialize: false })
    button.serialize = false
    button.label = "Choose a file to upload"
  },
})
