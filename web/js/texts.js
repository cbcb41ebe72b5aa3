/** Texts of this pack's own parts of the page, from `locales/<language>/main.json`, in the page's language. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

let served

/** {key: text} of one part; English where a language has none. */
export async function texts(part) {
  served ??= api.getCustomNodesI18n()
  const all = await served
  const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en"
  const of = (name) => all[name]?.blip3o?.[part] ?? {}
  return { ...of("en"), ...of(language.split("-")[0]), ...of(language) }
}
