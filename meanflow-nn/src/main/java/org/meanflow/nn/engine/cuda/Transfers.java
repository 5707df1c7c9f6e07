package org.meanflow.nn.engine.cuda;

import java.lang.foreign.MemorySegment;

/**
 * Copies between the host and the device by way of page-locked memory, in order with the work of a
 * stream. An upload returns once its bytes lie in that memory; the device fetches them while the
 * host goes on.
 */
final class Transfers implements AutoCloseable {
  private static final int PARTS = 8;
  private static final long PART_BYTES = 4L << 20;
  private static final int DISABLE_TIMING = 2;

  private final Cuda cuda;
  private final CudaStream stream;
  private final MemorySegment ring;

  /** For each part of the ring, the event after which its uploads are done. */
  private final long[] events = new long[PARTS];

  private int part;
  private long used;

  Transfers(Cuda cuda, CudaStream stream) {
    this.cuda = cuda;
    this.stream = stream;
    cuda.makeCurrent();
    long address =
        cuda.longOf(
            out -> cuda.driver.cuMemAllocHost_v2(out, PARTS * PART_BYTES), "cuMemAllocHost");
    ring = MemorySegment.ofAddress(address).reinterpret(PARTS * PART_BYTES);
    for (int i = 0; i < PARTS; i++) {
      events[i] =
          cuda.longOf(out -> cuda.driver.cuEventCreate(out, DISABLE_TIMING), "cuEventCreate");
    }
  }

  /** Copies all bytes of {@code source} to a device address. */
  void upload(MemorySegment source, long target) {
    stream.submit();
    cuda.makeCurrent();
    long done = 0;
    while (done < source.byteSize()) {
      if (used == PART_BYTES) {
        nextPart();
      }
      long bytes = Math.min(source.byteSize() - done, PART_BYTES - used);
      long offset = part * PART_BYTES + used;
      MemorySegment.copy(source, done, ring, offset, bytes);
      cuda.check(
          cuda.driver.cuMemcpyHtoDAsync_v2(
              target + done, ring.address() + offset, bytes, stream.handle()),
          "cuMemcpyHtoDAsync");
      done += bytes;
      used = Math.min(PART_BYTES, (used + bytes + 63) & -64);
    }
  }

  private void nextPart() {
    cuda.check(cuda.driver.cuEventRecord(events[part], stream.handle()), "cuEventRecord");
    part = (part + 1) % PARTS;
    // An event that was never recorded counts as done.
    cuda.check(cuda.driver.cuEventSynchronize(events[part]), "cuEventSynchronize");
    used = 0;
  }

  /** Copies from a device address into all of {@code target}, once all work is done. */
  void download(long source, MemorySegment target) {
    stream.submit();
    cuda.makeCurrent();
    long done = 0;
    while (done < target.byteSize()) {
      nextPart();
      long bytes = Math.min(target.byteSize() - done, PART_BYTES);
      long offset = part * PART_BYTES;
      cuda.check(
          cuda.driver.cuMemcpyDtoHAsync_v2(
              ring.address() + offset, source + done, bytes, stream.handle()),
          "cuMemcpyDtoHAsync");
      stream.finish();
      MemorySegment.copy(ring, offset, target, done, bytes);
      done += bytes;
    }
  }

  @Override
  public void close() {
    cuda.makeCurrent();
    for (long event : events) {
      cuda.check(cuda.driver.cuEventDestroy_v2(event), "cuEventDestroy");
    }
    cuda.check(cuda.driver.cuMemFreeHost(ring.address()), "cuMemFreeHost");
  }
}
