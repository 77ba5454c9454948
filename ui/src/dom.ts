// Elements from data: text only ever becomes text.

export type Child = Node | string | number | null | undefined | false
type Props = Record<string, unknown>

/** An HTML element: `on…` functions listen, true and false switch attributes, all else is an attribute. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, props: Props = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  return filled(document.createElement(tag), props, children)
}

/** An SVG element. */
export function s<K extends keyof SVGElementTagNameMap>(
  tag: K, props: Props = {}, ...children: Child[]
): SVGElementTagNameMap[K] {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children)
}

function filled<E extends Element>(element: E, props: Props, children: Child[]): E {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value as EventListener)
    else if (value === true) element.setAttribute(name, '')
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value))
  }
  add(element, ...children)
  return element
}

/** Append children; null, undefined and false are left out. */
export function add(element: Element, ...children: Child[]): void {
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(typeof child === 'number' ? String(child) : child)
    }
  }
}

/** Replace all children. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren()
  add(element, ...children)
}

/** A sentence of the server, or of the browser, for people to read. */
export function notice(text: string, kind: 'error' | 'warning' | 'note' = 'note'): HTMLElement {
  return h('p', { class: `notice ${kind}`, role: kind === 'error' ? 'alert' : 'status' }, text)
}

/** A select with a label. */
export function choice(
  label: string, options: [value: string, text: string][], chosen: string, onChange: (value: string) => void
): HTMLLabelElement {
  const select = h('select', { onchange: () => onChange(select.value) },
    ...options.map(([value, text]) => h('option', { value, selected: value === chosen }, text)))
  return h('label', { class: 'field' }, h('span', {}, label), select)
}

/** A number as a paper prints it: 3 or 4 significant digits. */
export function number(value: unknown, digits = 4): string {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–'
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value).replace('-', '−')
  const size = Math.abs(value)
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(digits)))
  return text.replace('-', '−')
}

/** Run at most once in `ms` of quiet. */
export function debounced<A extends unknown[]>(ms: number, run: (...args: A) => void): (...args: A) => void {
  let timer = 0
  return (...args) => {
    window.clearTimeout(timer)
    timer = window.setTimeout(() => run(...args), ms)
  }
}
