// What is wrong with a checkpoint, and what to do: the manual's table (health.md), in the page's
// words. A test holds this list to the daemon's own.

export interface Cure {
  title: string;
  cure: string;
}

const BACKUP = "Restore it from a copy. If another checkpoint of this run is good, go on from that one.";
const AGAIN = "It is looked at again by itself.";

export const CURES: Record<string, Cure> = {
  "empty": { title: "No bytes yet", cure: `Wait if it is being written, else delete it. ${AGAIN}` },
  "truncated": { title: "Ends before its end", cure: `Still being written, or cut off. Wait; if nobody writes it any more, restore it from a copy or delete it. ${AGAIN}` },
  "zero-filled": { title: "Not written, or only in part", cure: `It starts with zeros, or parts of it were never written: a download that is not finished, or a crash. Wait; if nobody writes it any more, restore it from a copy or delete it. ${AGAIN}` },
  "unsettled": { title: "Changed while it was read", cure: `Nothing to do: it is being written. ${AGAIN}` },
  "container-damaged": { title: "Damaged archive", cure: BACKUP },
  "checksum-mismatch": { title: "Bytes differ from their checksum", cure: BACKUP },
  "pickle-damaged": { title: "Damaged pickle", cure: BACKUP },
  "record-missing": { title: "A tensor's data or a shard is missing", cure: BACKUP },
  "record-short": { title: "A tensor's data is cut short", cure: BACKUP },
  "load-failed": { title: "torch cannot load it", cure: `${BACKUP} The message has torch's own words.` },
  "format-unsupported": { title: "A form that is not read", cure: "Nothing to mend: the file may be good, only its header is not understood." },
  "not-a-checkpoint": { title: "Not a checkpoint", cure: "Something else by that name: the message says what. Fetch the real file (for a Git LFS pointer: git lfs pull), or rename it." },
  "permission-denied": { title: "Not readable", cure: `The daemon's user may not read it: chmod it, or run the daemon as another user. ${AGAIN}` },
  "io-error": { title: "Disk error", cure: `The disk or the network file system failed: look at the system's log. ${AGAIN}` },
  "not-a-file": { title: "Not a file", cure: "A pipe, socket or device by that name: remove it." },
  "link-dangling": { title: "Link to nothing", cure: "The link's target is not there: remove or mend the link." },
  "link-loop": { title: "Link to itself", cure: "Remove or mend the link." },
  "link-outside": { title: "Link out of the root", cure: "It is never opened. Use a hard link or a copy, or watch a larger root." },
  "memory-limit": { title: "Header too large", cure: "Only a large plain pickle needs so much memory: save it with torch.save." },
  "time-limit": { title: "Reading took too long", cure: `A hostile file, or a file system that hangs. ${AGAIN}` },
  "limit-exceeded": { title: "Beyond the limits", cure: "No real checkpoint is: find out where it comes from before you load it." },
  "reader-crashed": { title: "Its reader crashed", cure: `Please report it, with the daemon's log. ${AGAIN}` },
  "sidecar-invalid": { title: "Sidecar is no valid document", cure: "The checkpoint itself is good. Mend or delete the .metadata.yaml beside it." },
  "sidecar-unwritable": { title: "Sidecar could not be written", cure: "The checkpoint itself is good. Make its folder writable for the daemon's user; it is tried again by itself." },
};

export function cureOf(code: string): Cure {
  return CURES[code] ?? { title: code, cure: "See the manual's page on health, \"What is wrong with a checkpoint\"." };
}
