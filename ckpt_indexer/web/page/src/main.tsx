// Where the page begins: draws the application and starts what goes on by itself.

import { render } from "preact";
import { start } from "./state";
import { App } from "./ui/App";

render(<App />, document.getElementById("page")!);
start();
