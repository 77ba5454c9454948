// The studies in the folder that was given to `vbmstat ui`, to open one.
import { type Folders, get, put } from './api'
import { showCommand } from './command'
import { add, h, notice } from './dom'
import { refusable } from './jobs'

export async function foldersView(host: HTMLElement, _: string[], signal: AbortSignal): Promise<void> {
  showCommand('')
  add(host, h('h1', {}, 'Open a folder'), ...folderList(await get<Folders>('/api/folders', signal)))
}

/** A table of studies with a button each. */
export function folderList(found: Folders): HTMLElement[] {
  const where = h('p', { class: 'muted' }, 'In ', h('bdi', {}, found.given),
    ' and three folders below. For a folder elsewhere, start vbmstat ui there: the page never leaves the folder that it was given.')
  if (!found.folders.length) return [notice('There are no scans, runs of vbmstat preprocess or results of vbmstat glm.'), where]
  const card = h('section', { class: 'card', 'aria-label': 'Folders' })
  const open = (path: string) => refusable(card, put('/api/folders', { path }).then(() => {
    history.replaceState(null, '', '#/cohort') // the views of the other folder ask nothing more
    location.reload()
  }))
  add(card, h('table', { class: 'choose' },
    h('thead', {}, h('tr', {}, ...['Folder', 'Holds', ''].map(name => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, ...found.folders.map(({ path, what }) => h('tr', {},
      h('th', { scope: 'row' }, h('bdi', {}, path === '.' ? found.given : path)),
      h('td', {}, what),
      h('td', {}, path === found.open ? h('span', { class: 'chip done' }, 'open')
        : h('button', { type: 'button', 'aria-label': `Open ${path}`, onclick: () => void open(path) }, 'Open')))))))
  return [card, where]
}
