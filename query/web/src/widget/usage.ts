export const history = () => import("odometer-chart");
