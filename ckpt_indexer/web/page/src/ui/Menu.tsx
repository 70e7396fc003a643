// A button that opens a small panel under itself. Owns: where the panel stands, and every way to close it.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons";

interface Props {
  label: ComponentChildren;
  /** What the panel is called by assistive technology. */
  title: string;
  isActive?: boolean;
  class?: string;
  alignRight?: boolean;
  onClear?: (() => void) | undefined;
  children: (close: () => void) => ComponentChildren;
}

export function Menu({ label, title, isActive = false, alignRight = false, onClear, children, ...rest }: Props) {
  const [isOpen, setOpen] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const panel = useRef<HTMLDivElement>(null);
  const id = useId();
  const close = () => {
    setOpen(false);
    button.current?.focus();
  };
  useLayoutEffect(() => {
    const [from, element] = [button.current, panel.current];
    if (!isOpen || !from || !element) return;
    // Fixed, because the bar under which it hangs may scroll sideways and would cut it off.
    const place = from.getBoundingClientRect();
    const left = alignRight ? place.right - element.offsetWidth : place.left;
    element.style.top = `${place.bottom + 4}px`;
    element.style.left = `${Math.max(8, Math.min(left, innerWidth - element.offsetWidth - 8))}px`;
    element.querySelector<HTMLElement>("input, select, button")?.focus();
  }, [isOpen]);
  useEffect(() => {
    if (!isOpen) return;
    const outside = (event: Event) => {
      const target = event.target as Node;
      if (!panel.current?.contains(target) && !button.current?.contains(target)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    addEventListener("resize", close);
    return () => {
      document.removeEventListener("pointerdown", outside);
      removeEventListener("resize", close);
    };
  }, [isOpen]);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || !isOpen) return;
    event.stopPropagation();
    close();
  };
  return (
    <div class={`menu ${rest.class ?? ""}`} onKeyDown={onKeyDown}>
      <div class={isActive ? "chip is-active" : "chip"}>
        <button ref={button} type="button" class="chip-button" aria-expanded={isOpen} aria-haspopup="dialog" aria-controls={isOpen ? id : undefined} onClick={() => setOpen(!isOpen)}>
          {label}
          {!onClear && <Icon name="down" />}
        </button>
        {onClear && (
          <button type="button" class="chip-clear" aria-label={`Clear: ${title}`} onClick={onClear}>
            <Icon name="close" />
          </button>
        )}
      </div>
      {isOpen && (
        <div ref={panel} id={id} class="panel" role="dialog" aria-label={title}>
          {children(close)}
        </div>
      )}
    </div>
  );
}
