// The design: a formula from the columns, what it becomes, its contrasts, and the fit.
import { type Cohort, type Column, type Design, type Folder, get, type ModelRequest, post } from './api'
import { showCommand } from './command'
import { add, choice, debounced, fill, h, notice } from './dom'
import { correlations, matrix } from './heat'
import { refusable, start, stillRunning } from './jobs'

const INFERENCE: [string, string][] = [
  ['fdr', 'false discovery rate'], ['rft', 'random field theory'], ['fwe', 'permutation, voxel FWE'], ['tfce', 'permutation, TFCE'],
  ['cluster', 'permutation, cluster FWE'],
]
const OF_VOXELS = ['rft', 'tfce', 'cluster'] // regions have no neighbours
const PERMUTED = ['fwe', 'tfce', 'cluster']
const KEPT = 'design' // the choices outlive a reload of the page
const kept: ModelRequest = {
  formula: '', contrasts: {}, level: 'voxel', repeats: 0, inference: ['fdr', 'rft'], permutations: 1000, variance: 'ols', fwhm: null, where: '',
  ...(JSON.parse(sessionStorage.getItem(KEPT) ?? '{}') as Partial<ModelRequest>),
}

export async function designView(host: HTMLElement, _: string[], signal: AbortSignal): Promise<void> {
  const [cohort, folder] = await Promise.all([get<Cohort>('/api/cohort', signal), get<Folder>('/api/folder', signal)])
  if (!cohort.responses.length) {
    add(host, h('h1', {}, 'Design'), notice(folder.messages[0] ?? 'There are no maps yet: preprocess the scans in the step Cohort.', 'warning'))
    return
  }
  kept.formula ||= `${cohort.responses[0]!.name} ~ `
  const shown = h('div', { class: 'stack', 'aria-live': 'polite' })
  const jobs = h('div', { class: 'stack' })
  const run = h('button', { type: 'button', class: 'primary', disabled: true }, 'Fit the model')
  let asking = new AbortController()
  const preview = debounced(300, async () => {
    sessionStorage.setItem(KEPT, JSON.stringify(kept))
    asking.abort()
    asking = new AbortController()
    const { signal: now } = asking
    run.disabled = true
    if (!kept.formula.split('~')[1]?.trim()) {
      fill(shown, notice('Choose the covariates: click a column, or type the formula.'))
      return
    }
    shown.setAttribute('aria-busy', 'true')
    await refusable(shown, post<Design>('/api/designs', asked(), now).then(design => {
      if (now.aborted || signal.aborted) return
      showCommand(design.command)
      run.disabled = !design.ok
      fill(shown, ...described(design, preview))
      if (design.ok) estimated(shown, now)
    })).catch(error => { if (!now.aborted) throw error })
    if (!now.aborted) shown.removeAttribute('aria-busy')
  })
  run.addEventListener('click', () => {
    run.disabled = true
    void refusable(jobs, start(jobs, 'glm', asked(), signal)).finally(() => { run.disabled = false })
  })
  add(host, h('div', { class: 'tools' }, h('h1', {}, 'Design'), h('span', { class: 'count' }, run)), jobs, h('div', { class: 'split even' },
    h('div', { class: 'stack' }, formulaCard(cohort, preview), optionsCard(preview)), shown))
  preview()
  await stillRunning(jobs, 'glm', signal)
}

/** The request without what is not used. */
function asked(): Partial<ModelRequest> {
  const { formula, contrasts, level, repeats, where } = kept
  const inference = kept.inference.filter(one => level === 'voxel' || !OF_VOXELS.includes(one))
  return {
    formula, contrasts, level, repeats: level === 'voxel' ? repeats : 0, inference,
    ...(where.trim() ? { where } : {}),
    ...(inference.some(one => PERMUTED.includes(one)) ? { permutations: kept.permutations } : {}),
    ...(kept.variance === 'ols' ? {} : { variance: kept.variance }), ...(kept.fwhm ? { fwhm: kept.fwhm } : {}),
  }
}

function formulaCard(cohort: Cohort, changed: () => void): HTMLElement {
  const field = h('input', { type: 'text', value: kept.formula, spellcheck: false, autocomplete: 'off', class: 'formula', id: 'formula' })
  const set = (formula: string) => {
    kept.formula = formula
    field.value = formula
    draw()
    changed()
  }
  field.addEventListener('input', () => {
    kept.formula = field.value
    draw()
    changed()
  })
  const list = h('div', { class: 'columns' })
  const draw = () => fill(list, ...cohort.columns.filter(one => one.type === 'number' || (one.levels ?? []).length > 1).map(column => columnRow(column, set)))
  const response = choice('Maps', cohort.responses.map((one): [string, string] => [one.name, one.description]),
    kept.formula.split('~')[0]?.trim() ?? '', name => set(`${name} ~ ${kept.formula.split('~')[1]?.trim() ?? ''}`))
  draw()
  return h('section', { class: 'card', 'aria-label': 'Formula' }, response,
    h('label', { for: 'formula', class: 'muted' }, 'Formula'), field, h('h2', {}, 'Columns'), list)
}

/** A column with its type as the model takes it; a click puts it into the formula, or takes it out. */
function columnRow(column: Column, set: (formula: string) => void): HTMLElement {
  const name = termOf(column.name)
  const [left = '', right = ''] = kept.formula.split('~').map(part => part.trim())
  const terms = right.split('+').map(one => one.trim()).filter(Boolean)
  const has = (term: string) => term.split(/[*:]/).some(part => part.trim().replace(/^center\((.*)\)$/, '$1') === name)
  const used = terms.some(has)
  const last = terms.at(-1)
  const type = column.type === 'number' ? `number${column.unit ? `, ${column.unit}` : ''}` : `factor: ${short(column.levels ?? [])}`
  return h('div', { class: 'column', title: column.description },
    h('button', {
      type: 'button', 'aria-pressed': String(used),
      onclick: () => set(`${left} ~ ${(used ? terms.filter(term => !has(term)) : [...terms, name]).join(' + ')}`),
    }, used ? '✓ ' : '+ ', column.name),
    h('span', { class: 'muted' }, type),
    !used && last !== undefined && h('button', {
      type: 'button', class: 'quiet small', title: `Interaction with ${last}`,
      onclick: () => set(`${left} ~ ${[...terms.slice(0, -1), `${last} * ${name}`].join(' + ')}`),
    }, `× ${last}`))
}

/** A column's name in a formula. */
function termOf(name: string): string {
  if (name === 'tiv_ml') return 'tiv'
  return /^[A-Za-z_][\w.]*$/.test(name) ? name : `\`${name}\``
}

function short(levels: string[]): string {
  return levels.length > 5 ? `${levels.slice(0, 4).join(', ')} … (${levels.length} levels)` : levels.join(', ')
}

function optionsCard(changed: () => void): HTMLElement {
  const set = <K extends keyof ModelRequest>(name: K, value: ModelRequest[K]) => {
    kept[name] = value
    changed()
  }
  const numeric = (label: string, name: 'repeats' | 'permutations' | 'fwhm', hint: string) => h('label', { class: 'field', title: hint },
    h('span', {}, label), h('input', {
      type: 'number', min: 0, value: kept[name] ?? '', size: 6,
      oninput: (event: Event) => set(name, Number((event.target as HTMLInputElement).value)),
    }))
  const card = h('section', { class: 'card', 'aria-label': 'Options' }, h('h2', {}, 'Options'),
    h('div', { class: 'tools' },
      choice('Level', [['voxel', 'voxels'], ['roi', 'atlas labels'], ['region', 'regions, both sides']], kept.level, value => {
        set('level', value)
        allowed()
      }),
      choice('Variance', [['ols', 'equal (OLS)'], ['hc3', 'robust (HC3)']], kept.variance, value => set('variance', value)),
      numeric('Subsets', 'repeats', 'Repetitions over random subsets of the scans, for stability maps'),
      numeric('Permutations', 'permutations', 'For permutation inference'),
      numeric('Smooth (mm)', 'fwhm', 'FWHM for maps that are not smoothed yet')),
    h('fieldset', {}, h('legend', {}, 'Corrected inference'), ...INFERENCE.map(([name, label]) => h('label', { class: 'check' },
      h('input', {
        type: 'checkbox', checked: kept.inference.includes(name), ...(OF_VOXELS.includes(name) ? { class: 'of-voxels', title: 'Of voxels only: regions have no neighbours' } : {}),
        onchange: (event: Event) => set('inference', (event.target as HTMLInputElement).checked
          ? [...kept.inference, name] : kept.inference.filter(one => one !== name)),
      }), ` ${label}`))),
    h('label', { class: 'field' }, h('span', {}, 'Only scans where'), h('input', {
      type: 'text', value: kept.where, placeholder: 'age >= 18 and qc_noise_percent < 12', size: 34,
      oninput: (event: Event) => set('where', (event.target as HTMLInputElement).value),
    })))
  const allowed = () => card.querySelectorAll<HTMLInputElement>('.of-voxels').forEach(one => { one.disabled = kept.level !== 'voxel' })
  allowed()
  return card
}

/** Say how long the fit will take, once the design has stood still: a pilot is timed for it. */
const estimated = debounced(1000, async (shown: HTMLElement, signal: AbortSignal) => {
  const place = shown.querySelector('.estimate')
  if (!place || signal.aborted) return
  const { estimate } = await post<Design>('/api/designs', { ...asked(), estimate: true }, signal).catch(() => ({ estimate: null }))
  if (estimate) place.textContent = `, ${estimate.text}`
})

/** What the formula becomes: or what is wrong with it. */
function described(design: Design, changed: () => void): HTMLElement[] {
  if (!design.ok) {
    const own = Object.keys(kept.contrasts).length > 0 && contrastCard(design, changed) // one of them may be what is wrong
    return [notice(design.error ?? 'The design cannot be built.', 'error'), ...(own ? [own] : [])]
  }
  return [
    h('p', {}, h('strong', {}, `${design.n_scans} scans, ${design.regressors.length} regressors`), h('span', { class: 'muted estimate' })),
    h('ul', { class: 'lines' }, ...[...design.columns.map(one => one.line), ...design.warnings, ...mainEffects(design)].map(text => h('li', {}, text))),
    contrastCard(design, changed),
    h('section', { class: 'card', 'aria-label': 'Design matrix' }, h('h2', {}, 'Design matrix'), matrix(design)),
    h('section', { class: 'card', 'aria-label': 'Correlations' }, h('h2', {}, 'Correlations of regressors, variance inflation'), correlations(design)),
  ]
}

/** What a main effect is beside an interaction; the usual wish is its effect at the mean. */
function mainEffects(design: Design): string[] {
  const terms = kept.formula.split('~')[1]?.match(/[^+]*[*:][^+]*/g) ?? []
  const zero = design.columns.map(one => /^(.+?): number/.exec(one.line)?.[1] ?? '').filter(name => name && terms.some(term =>
    term.split(/[*:]/).some(part => part.trim() === name)))
  return zero.map(name => `With this interaction, the other part’s own effect is that at ${name} = 0: write center(${name}) for its effect at the mean ${name}.`)
}

function contrastCard(design: Design, changed: () => void): HTMLElement {
  const own = Object.keys(kept.contrasts)
  const listed = design.ok ? design.contrasts : own.map(name => ({ name, kind: null }))
  const set = (contrasts: Record<string, string>) => {
    kept.contrasts = contrasts
    changed()
  }
  const name = h('input', { type: 'text', placeholder: 'name', size: 12, 'aria-label': 'Name of the contrast' })
  const text = h('input', { type: 'text', placeholder: 'age - 2 * iq, or F(a, b)', size: 24, 'aria-label': 'Expression of the contrast' })
  const form = h('form', { class: 'tools' }, name, text, h('button', { type: 'submit' }, 'Add'))
  form.addEventListener('submit', event => {
    event.preventDefault()
    if (text.value.trim()) set({ ...kept.contrasts, [name.value.trim() || text.value.trim()]: text.value.trim() })
  })
  return h('section', { class: 'card', 'aria-label': 'Contrasts' }, h('h2', {}, 'Contrasts'),
    h('p', { class: 'muted' }, own.length ? 'Tested:' : 'Without a choice all of these are tested:'),
    h('ul', { class: 'chips' }, ...listed.map(one => h('li', {}, h('span', { class: 'chip' }, one.kind === null ? one.name : `${one.name} (${one.kind})`,
      own.includes(one.name) && h('button', {
        type: 'button', class: 'quiet small', 'aria-label': `Remove the contrast ${one.name}`,
        onclick: () => set(Object.fromEntries(Object.entries(kept.contrasts).filter(([key]) => key !== one.name))),
      }, '×'))))),
    h('div', { class: 'tools' }, h('span', { class: 'muted' }, 'Test'), ...design.regressors.filter(one => one !== 'Intercept' && !own.includes(one)).map(one =>
      h('button', { type: 'button', class: 'small', onclick: () => set({ ...kept.contrasts, [one]: one }) }, one))), form)
}
