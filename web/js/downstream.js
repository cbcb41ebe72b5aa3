/** The image that a node's result has become: what the nearest node behind it shows. */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const OUT = -20 // ComfyUI's id of a subgraph's outputs

/** Where ComfyUI keeps what a node showed: one place for all uses of a subgraph. */
export function place(node) {
  return node.graph.isRootGraph ? String(node.id) : `${node.graph.id}:${node.id}`
}

/** The nodes, in this graph and inside subgraphs, that stand for subgraph `graph`. */
function uses(graph, within = app.rootGraph ?? app.graph) {
  return within.nodes
    .filter((node) => node.subgraph)
    .flatMap((node) => (node.subgraph === graph ? [node] : uses(graph, node.subgraph)))
}

/** The nodes that a node's outputs reach directly; `slot`: of that output only. */
function followers(node, slot) {
  const found = []
  for (const [k, output] of (node.outputs ?? []).entries()) {
    if (slot !== undefined && k !== slot) continue
    for (const id of output.links ?? []) {
      const link = node.graph.getLink(id)
      if (!link) continue
      if (Number(link.target_id) === OUT)
        found.push(...uses(node.graph).flatMap((outer) => followers(outer, link.target_slot)))
      else found.push(node.graph.getNodeById(link.target_id))
    }
  }
  return found.filter(Boolean)
}

/** Whether the id of something that runs, "12:5" for node 5 in subgraph node 12, is this node's. */
export function runsAs(node, id) {
  const [own, outer] = String(id).split(":").reverse()
  if (own !== String(node.id) || !node.graph) return false
  if (node.graph.isRootGraph) return outer === undefined
  return uses(node.graph).some((one) => String(one.id) === outer)
}

/** The address of the image `index` that the nearest node behind output `slot` showed last, or undefined. */
export function imageBehind(node, slot, index) {
  const seen = new Set([node])
  let front = followers(node, slot)
  while (front.length) {
    const next = []
    for (const one of front) {
      if (seen.has(one)) continue
      seen.add(one)
      const images = app.nodeOutputs[place(one)]?.images
      if (images?.length) return api.apiURL(`/view?${new URLSearchParams(images[Math.min(index, images.length - 1)])}`)
      if (one.subgraph) next.push(...one.subgraph.nodes)
      next.push(...followers(one))
    }
    front = next
  }
  return undefined
}
