// Shows openapi.json. Everything is put on the page as text and elements, never as HTML.

const METHODS = ["get", "post", "put", "patch", "delete"];
const ENDPOINT = "http://localhost:8092";
const here = new URL(".", location.href).href.replace(/\/$/, "");

const state = document.getElementById("state");
try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json answered ${answer.status}`);
  show(await answer.json());
} catch (error) {
  state.textContent = `The description of the API cannot be shown: ${error.message}`;
}

function show(api) {
  const resolve = (value) => {
    while (value?.$ref) value = value.$ref.slice(2).split("/").reduce((at, key) => at?.[key], api);
    return value ?? {};
  };
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })));
  const groups = api.tags
    .map((tag) => ({ ...tag, operations: operations.filter((operation) => operation.tags?.[0] === tag.name) }))
    .filter((group) => group.operations.length);

  document.getElementById("version").textContent = api.info.version;
  state.replaceWith(
    element("header", { id: "top" },
      element("h1", {}, `${api.info.title} API`),
      element("p", { class: "lead" }, api.info.summary),
      element("p", { class: "hint" }, "At ", element("code", {}, here), " · described by ",
        element("a", { href: "openapi.json" }, "openapi.json"), ` (OpenAPI ${api.openapi})`),
      ...markdown(api.info.description)),
    ...groups.map((group) => element("section", {},
      element("h2", {}, group.name), ...markdown(group.description),
      ...group.operations.map((operation) => article(operation, resolve)))));
  navigate(groups);
  document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
}

function navigate(groups) {
  const index = document.getElementById("index");
  const links = new Map();
  for (const group of groups) {
    const items = group.operations.map((operation) => {
      const link = element("a", { href: `#${operation.operationId}`, title: operation.path },
        element("span", { class: `method ${operation.method}` }, operation.method), operation.summary);
      links.set(operation.operationId, link);
      const item = element("li", {}, link);
      item.words = `${operation.method} ${operation.path} ${operation.summary} ${group.name}`.toLowerCase();
      return item;
    });
    index.append(element("div", {}, element("h2", {}, group.name), element("ul", {}, ...items)));
  }
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const part of index.children) {
      for (const item of part.querySelectorAll("li")) item.hidden = !words.every((word) => item.words.includes(word));
      part.hidden = !part.querySelector("li:not([hidden])");
    }
  });
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-10% 0px -75% 0px" });
  document.querySelectorAll("article").forEach((each) => watcher.observe(each));
}

function article(operation, resolve) {
  const parameters = (operation.parameters ?? []).map(resolve);
  const body = resolve(operation.requestBody);
  const [type, content] = Object.entries(body.content ?? {})[0] ?? [];
  const answers = Object.entries(operation.responses).map(([status, answer]) => [status, resolve(answer)]);
  const scope = Object.values(operation.security?.[0] ?? {})[0]?.[0];

  const left = element("div", {}, ...markdown(operation.description));
  for (const [place, title] of [["path", "In the path"], ["query", "Query"], ["header", "Headers"]]) {
    const some = parameters.filter((parameter) => parameter.in === place);
    if (some.length) left.append(element("h4", {}, title), element("ul", { class: "members" },
      ...some.map((each) => member(each.name, { ...resolve(each.schema), description: each.description },
        each.required, resolve, []))));
  }
  if (content) {
    left.append(element("h4", {}, `Body · ${type}`), ...markdown(resolve(content.schema).description),
      ...members(content.schema, resolve, []));
  }
  left.append(element("h4", {}, "Answers"), ...answers.map(([status, answer]) => answered(status, answer, resolve)));

  const right = element("div", {}, samples(operation["x-codeSamples"] ?? []));
  if (content) right.append(examples("Body", content));
  for (const [status, answer] of answers) {
    const [, shown] = Object.entries(answer.content ?? {})[0] ?? [];
    if (status[0] === "2" && shown) right.append(examples(`Answer ${status}`, shown));
  }
  return element("article", { id: operation.operationId },
    element("h3", {}, operation.summary),
    element("div", { class: "route" },
      element("span", { class: `method ${operation.method}` }, operation.method),
      element("span", { class: "path" }, operation.path),
      element("span", { class: "badge" }, scope ? `scope ${scope}` : "no key needed")),
    element("div", { class: "columns" }, left, right));
}

function answered(status, answer, resolve) {
  const good = status[0] === "2";
  const inside = [];
  const headers = Object.entries(answer.headers ?? {}).filter(([name]) => name !== "X-Request-Id");
  if (headers.length) inside.push(element("ul", { class: "members" }, ...headers.map(([name, header]) => {
    const { schema, ...rest } = resolve(header);
    return member(name, { ...resolve(schema), description: rest.description }, rest.required, resolve, []);
  })));
  for (const [type, { schema }] of Object.entries(answer.content ?? {})) {
    inside.push(element("p", { class: "hint" }, type), ...members(schema, resolve, []));
  }
  return element("details", { class: "answer" },
    element("summary", {}, element("span", { class: good ? "status" : "status bad" }, status), ...inline(answer.description)),
    ...inside);
}

// The members of an object, or what a list has in it.
function members(schema, resolve, above) {
  const { name, schema: whole } = unwrap(schema, resolve);
  if (name && above.includes(name)) return [element("p", { class: "hint" }, `as above: ${name}`)];
  const inner = name ? [...above, name] : above;
  if (whole.items) return members(whole.items, resolve, inner);
  const needed = whole.required ?? [];
  const own = Object.entries(whole.properties ?? {});
  own.sort(([a], [b]) => needed.includes(b) - needed.includes(a));
  const list = own.map(([key, value]) => member(key, value, needed.includes(key), resolve, inner));
  for (const part of whole.allOf ?? []) list.push(...members(part, resolve, inner).flatMap((each) => [...each.children]));
  if (list.length) return [element("ul", { class: "members" }, ...list)];
  const choices = (whole.oneOf ?? []).flatMap((each) => members(each, resolve, inner));
  return choices;
}

function member(name, value, needed, resolve, above) {
  const { schema } = unwrap(value, resolve);
  const below = members(value, resolve, above);
  const described = value.description ?? schema.description ?? "";
  return element("li", {},
    element("div", { class: "member" }, element("b", {}, name), element("span", { class: "type" }, typeOf(value, resolve)),
      needed ? element("span", { class: "needed" }, "required") : ""),
    ...markdown(described), ...limits(schema),
    below.length ? element("details", {}, element("summary", {}, "Members"), ...below) : "");
}

// A schema without its name and without "or null".
function unwrap(schema, resolve) {
  let name = "";
  for (let depth = 0; depth < 8; depth++) {
    if (schema?.$ref) {
      name = schema.$ref.split("/").pop();
      schema = { ...resolve(schema) };
    } else if ((schema?.oneOf ?? schema?.anyOf)?.some((each) => each.type === "null")) {
      const rest = (schema.oneOf ?? schema.anyOf).filter((each) => each.type !== "null");
      if (rest.length !== 1) break;
      [schema] = rest;
    } else break;
  }
  return { name, schema: schema ?? {} };
}

function typeOf(value, resolve) {
  const { schema } = unwrap(value, resolve);
  const types = [schema.type ?? (schema.properties ? "object" : "any")].flat().filter((type) => type !== "null");
  const words = types.map((type) => {
    if (type === "array") return `list of ${typeOf(schema.items ?? {}, resolve)}`;
    if (type === "object" && schema.additionalProperties?.type) return `object of ${schema.additionalProperties.type}`;
    return type;
  });
  return words.join(" or ") + (schema.format && types[0] === "string" ? ` (${schema.format})` : "");
}

function limits(schema) {
  const parts = [];
  const several = schema.enum?.filter((each) => each !== null);
  if (several?.length && several.length < 12) parts.push("one of ", ...several.flatMap((each, i) => [i ? ", " : "", code(each)]));
  if (schema.const !== undefined) parts.push("always ", code(schema.const));
  if (schema.default !== undefined && schema.default !== null) parts.push(parts.length ? " · default " : "default ", code(schema.default));
  const range = [["minimum", "at least", ""], ["maximum", "at most", ""], ["maxLength", "at most", " characters"],
    ["maxItems", "at most", " entries"]];
  for (const [key, text, what] of range) {
    if (schema[key] !== undefined) parts.push(`${parts.length ? " · " : ""}${text} ${schema[key]}${what}`);
  }
  return parts.length ? [element("p", { class: "hint" }, ...parts)] : [];
}

function samples(all) {
  const shown = element("code");
  const text = (sample) => sample.source.replaceAll(ENDPOINT, here);
  const tabs = all.map((sample) => {
    const tab = element("button", { role: "tab", type: "button" }, sample.label);
    tab.addEventListener("click", () => select(sample.label));
    return tab;
  });
  const select = (label) => {
    all.forEach((sample, i) => {
      tabs[i].setAttribute("aria-selected", sample.label === label);
      if (sample.label === label) shown.textContent = text(sample);
    });
  };
  if (all.length) select(all[0].label);
  return element("div", { class: "sample" },
    element("header", { role: "tablist" }, ...tabs, copier(shown)), element("pre", { tabindex: "0" }, shown));
}

function examples(title, content) {
  const named = Object.values(content.examples ?? {}).map((each) => [each.summary, each.value ?? each.dataValue]);
  if (content.example !== undefined) named.unshift([title, content.example]);
  if (!named.length) return "";
  const shown = element("code");
  const select = (i) => shown.replaceChildren(...coloured(named[i][1]));
  select(0);
  const head = [element("span", {}, title)];
  if (named.length > 1) {
    const choice = element("select", { "aria-label": "Which example" },
      ...named.map(([summary], i) => element("option", { value: i }, summary)));
    choice.addEventListener("change", () => select(choice.value));
    head.push(choice);
  }
  return element("div", { class: "sample" },
    element("header", {}, ...head, copier(shown)), element("pre", { tabindex: "0" }, shown));
}

function copier(shown) {
  const button = element("button", { class: "copy", type: "button" }, "Copy");
  const done = (text) => {
    button.textContent = text;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(shown.textContent);
      done("Copied");
    } catch {
      // Without TLS browsers give no clipboard to pages that are not on loopback: select the text instead.
      getSelection().selectAllChildren(shown);
      done("Press Ctrl+C");
    }
  });
  return button;
}

function coloured(value) {
  if (typeof value === "string") return [value];
  const text = JSON.stringify(value, null, 2);
  const token = /("(?:\\.|[^"\\])*")(\s*:)?|\b(-?\d[\d.eE+-]*|true|false|null)\b/g;
  const parts = [];
  let from = 0;
  for (const found of text.matchAll(token)) {
    parts.push(text.slice(from, found.index));
    const [whole, string, colon] = found;
    parts.push(element("span", { class: string ? (colon ? "key" : "string") : "number" }, string ?? whole), colon ?? "");
    from = found.index + whole.length;
  }
  return [...parts, text.slice(from)];
}

// As much of Markdown as descriptions use: paragraphs, lists, code, bold, links.
function markdown(text) {
  return (text ?? "").split(/\n\s*\n/).filter((part) => part.trim()).map((part) => {
    const lines = part.trim().split("\n");
    if (lines.every((line) => /^([-*] |\s)/.test(line))) {
      const items = part.trim().split(/\n(?=[-*] )/);
      return element("ul", {}, ...items.map((item) => element("li", {}, ...inline(item.replace(/^[-*] /, "")))));
    }
    return element("p", {}, ...inline(lines.join(" ")));
  });
}

function inline(text) {
  const parts = (text ?? "").split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)\s]+\))/);
  return parts.map((part, i) => {
    if (i % 2 === 0) return part;
    if (part[0] === "`") return code(part.slice(1, -1));
    if (part[0] === "*") return element("b", {}, part.slice(2, -2));
    const [, label, address] = part.match(/^\[(.+)\]\((.+)\)$/);
    return /^(https?:\/\/|#|\/)/.test(address) ? element("a", { href: address }, label) : label;
  });
}

function code(value) {
  return element("code", {}, typeof value === "string" ? value : JSON.stringify(value));
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== ""));
  return made;
}
