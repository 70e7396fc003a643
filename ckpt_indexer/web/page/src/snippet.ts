// The lines that load a checkpoint, to be copied into a program. Owns: what loads which format, and Python's quoting.

/** A Python literal of a text: what `eval` would read as exactly this. */
export function pythonText(text: string): string {
  let out = '"';
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (character === '"' || character === "\\") out += `\\${character}`;
    else if (character === "\n") out += "\\n";
    else if (code < 0x20 || (code >= 0x7f && code < 0xa0)) out += `\\x${code.toString(16).padStart(2, "0")}`;
    else if (/[\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u.test(character))
      out += code > 0xffff ? `\\U${code.toString(16).padStart(8, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
    else out += character;
  }
  return `${out}"`;
}

export function loadSnippet(format: string, fullPath: string, isLightning: boolean): string {
  const path = pythonText(fullPath);
  switch (format) {
    case "safetensors":
      return `from safetensors.torch import load_file\n\nstate_dict = load_file(${path})\n`;
    case "torchscript":
      return `import torch\n\nmodel = torch.jit.load(${path}, map_location="cpu")\n`;
    case "sharded-dcp":
      return (
        "import torch\nfrom torch.distributed.checkpoint.format_utils import dcp_to_torch_save\n\n" +
        `dcp_to_torch_save(${path}, "consolidated.ckpt")\ncheckpoint = torch.load("consolidated.ckpt", map_location="cpu", weights_only=True)\n`
      );
    case "sharded-deepspeed":
      return (
        "from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint\n\n" +
        `state_dict = get_fp32_state_dict_from_zero_checkpoint(${path})\n`
      );
    case "pickle":
      return `import pickle\n\nwith open(${path}, "rb") as file:\n    checkpoint = pickle.load(file)  # runs code from the file: only if you trust it\n`;
    default:
      return (
        `import torch\n\ncheckpoint = torch.load(${path}, map_location="cpu", weights_only=True)\n` +
        `state_dict = checkpoint${isLightning ? '["state_dict"]' : '.get("state_dict", checkpoint)'}\n`
      );
  }
}
