//go:build unix && !linux

package localpg

const parentEnv = "ODOMETER_TEST_PARENT"

func beParent() {}
