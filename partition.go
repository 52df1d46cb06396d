package odometer

import (
	"hash/fnv"

	"github.com/google/uuid"
)

// PartitionHash is the hash by which the NATS server's subject transform
// `{{partition(N,2)}}` deals tenants to partitions: FNV-1a, 32 bits, over the
// tenant's token. (nats-server, server/subject_transform.go.)
func PartitionHash(tenant uuid.UUID) uint32 {
	h := fnv.New32a()
	h.Write([]byte(tenant.String()))
	return h.Sum32()
}

// PartitionOf tells which of n partitions holds a tenant's messages.
func PartitionOf(tenant uuid.UUID, n int) int {
	return int(PartitionHash(tenant) % uint32(n))
}
