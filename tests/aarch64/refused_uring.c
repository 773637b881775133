/* liburing on a kernel that refuses every ring: what is to be linked where no liburing is installed. No
 * function but those that open a ring can be reached. */
#include <errno.h>
#include <liburing.h>

int io_uring_queue_init(unsigned entries, struct io_uring* ring, unsigned flags) {
  (void)entries, (void)ring, (void)flags;
  return -ENOSYS;
}

int io_uring_queue_init_params(unsigned entries, struct io_uring* ring, struct io_uring_params* params) {
  (void)entries, (void)ring, (void)params;
  return -ENOSYS;
}

void io_uring_queue_exit(struct io_uring* ring) { (void)ring; }

int io_uring_enable_rings(struct io_uring* ring) {
  (void)ring;
  return -ENOSYS;
}

int io_uring_register_buffers(struct io_uring* ring, const struct iovec* buffers, unsigned count) {
  (void)ring, (void)buffers, (void)count;
  return -ENOSYS;
}

int io_uring_register_files(struct io_uring* ring, const int* files, unsigned count) {
  (void)ring, (void)files, (void)count;
  return -ENOSYS;
}

int io_uring_unregister_files(struct io_uring* ring) {
  (void)ring;
  return -ENOSYS;
}

int io_uring_submit_and_get_events(struct io_uring* ring) {
  (void)ring;
  return -ENOSYS;
}

int io_uring_submit_and_wait_timeout(struct io_uring* ring, struct io_uring_cqe** first, unsigned count,
                                     struct __kernel_timespec* timeout, sigset_t* mask) {
  (void)ring, (void)first, (void)count, (void)timeout, (void)mask;
  return -ENOSYS;
}

int __io_uring_get_cqe(struct io_uring* ring, struct io_uring_cqe** first, unsigned submit, unsigned wait,
                       sigset_t* mask) {
  (void)ring, (void)first, (void)submit, (void)wait, (void)mask;
  return -ENOSYS;
}
