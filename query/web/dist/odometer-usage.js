var o=()=>import("./odometer-chart.js");export{o as history};
