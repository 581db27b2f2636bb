// The data of the page: blocks of base64 that are inflated when they are asked for.

async function inflated(id) {
  const text = document.getElementById(id).textContent;
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

// Numbers of 16 bits, looked up.
const HALF = new Float32Array(65536);
for (let i = 0; i < 65536; i++) {
  const sign = i & 0x8000 ? -1 : 1, exponent = (i >> 10) & 31, fraction = i & 1023;
  HALF[i] = sign * (exponent === 31 ? (fraction ? NaN : Infinity) : exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

// Token ids to text. A character that several tokens share is written by the last of them.
class Vocabulary {
  constructor(data) {
    this.known = data.bytes !== null;
    this.words = new Map();
    const control = new Set(data.control);
    data.ids.forEach((id, i) => {
      const bytes = this.known ? Uint8Array.from(data.bytes[i], (c) => c.charCodeAt(0)) : new Uint8Array(0);
      const text = this.known ? (unfinished(bytes) ? null : utf8.decode(bytes)) : String(id);
      this.words.set(id, { bytes, text, control: control.has(id) });
    });
  }

  // One text a token; together they are the text of all.
  spell(ids) {
    const out = new Array(ids.length);
    let rest = null;
    for (let i = 0; i < ids.length; i++) {
      const word = this.words.get(ids[i]);
      if (rest !== null && word.control) {
        out[i - 1] += utf8.decode(rest);
        rest = null;
      }
      if (rest === null && word.text !== null) {
        out[i] = word.text;
        continue;
      }
      const bytes = rest === null ? word.bytes : Uint8Array.of(...rest, ...word.bytes);
      const end = bytes.length - unfinished(bytes);
      out[i] = utf8.decode(bytes.subarray(0, end));
      rest = end < bytes.length ? bytes.slice(end) : null;
    }
    if (rest !== null) out[ids.length - 1] += utf8.decode(rest);
    return out;
  }
}

// How many bytes at the end begin a character that is not complete.
function unfinished(bytes) {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back];
    if (byte >= 0xc2) return (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) > back && byte < 0xf5 ? back : 0;
    if (byte < 0x80 || byte >= 0xc0) return 0;
  }
  return 0;
}

class Episodes {
  constructor(data, vocabulary) {
    Object.assign(this, data.columns);
    this.files = data.files;
    this.problems = data.problems;
    this.tagLists = data.tags;
    this.stops = data.stops;
    this.vocabulary = vocabulary;
    this.count = this.step.length;
    this.reward = this.reward.map(Number);
    this.cache = new Map();
    this.groups = []; // [first, end) of each
    for (let i = 0; i < this.count; i++) {
      if (i === 0 || this.group[i] !== this.group[i - 1]) this.groups.push([i, i + 1]);
      else this.groups[this.groups.length - 1][1] = i + 1;
    }
    this.starts = []; // the first episode of each chunk
    for (let i = this.count - 1; i >= 0; i--) this.starts[this.chunk[i]] = i;
  }

  async get(i) {
    const chunk = this.chunk[i];
    if (!this.cache.has(chunk)) {
      if (this.cache.size >= 6) this.cache.delete(this.cache.keys().next().value);
      this.cache.set(chunk, this.load(chunk));
    }
    return (await this.cache.get(chunk))[i - this.starts[chunk]];
  }

  async load(chunk) {
    const buffer = await inflated(`chunk-${chunk}`);
    const size = new DataView(buffer).getUint32(0, true);
    const heads = JSON.parse(utf8.decode(new Uint8Array(buffer, 4, size)));
    let tokens = 0, sampled = 0;
    for (const [, , turns] of heads) for (const turn of turns) { tokens += turn[0] + turn[1]; sampled += turn[1]; }
    const start = 4 + size + ((4 - (size % 4)) % 4);
    const ids = new Uint32Array(buffer, start, tokens);
    const halves = (k) => new Uint16Array(buffer, start + 4 * tokens + 2 * k * sampled, sampled);
    const columns = [halves(0), halves(1), halves(2)];
    let at = 0, from = 0;
    return heads.map(([final, metrics, turns]) => ({
      final: Number(final),
      metrics,
      turns: turns.map(([observed, acted, joined, reward, truncated, masked, policy, values, logged]) => {
        const turn = {
          observation: ids.subarray(at, at + observed),
          action: ids.subarray(at + observed, at + observed + acted),
          logprobs: columns[0].subarray(from, from + acted),
          advantages: columns[1].subarray(from, from + acted),
          weights: columns[2].subarray(from, from + acted),
          joined, reward: Number(reward), truncated, masked, policy, metrics: values, logged,
        };
        at += observed + acted;
        from += acted;
        return turn;
      }),
    }));
  }

  // All that was read and said in an episode.
  text(episode) {
    return episode.turns
      .map((turn) => (this.vocabulary.known ? this.vocabulary.spell(turn.observation).join("") + this.vocabulary.spell(turn.action).join("") : turn.logged.join("")))
      .join("");
  }
}
