// The command line that does what the view shows.
import { h } from './dom'

const text = h('code', { id: 'command-text' })
const copy = h('button', { type: 'button', class: 'quiet', onclick: () => void copied() }, 'Copy')

/** The bar at the foot of the page. */
export const commandBar = h('footer', { id: 'command', 'aria-label': 'Equivalent command line' },
  h('span', { class: 'prompt', 'aria-hidden': 'true' }, '$'), text, copy)

/** Show the command of the view. */
export function showCommand(command: string): void {
  text.textContent = command
  commandBar.hidden = !command
}

async function copied(): Promise<void> {
  await navigator.clipboard.writeText(text.textContent ?? '')
  copy.textContent = 'Copied'
  window.setTimeout(() => { copy.textContent = 'Copy' }, 1500)
}
