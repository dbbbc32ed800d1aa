/* A stand-in for libamdhip64.so on a machine without a GPU: what waits, and names of errors. */

static int synchronized, failure;

int hipDeviceSynchronize(void) {
    synchronized++;
    return failure;
}

const char *hipGetErrorName(int status) {
    return status == 700 ? "hipErrorIllegalAddress" : "hipErrorUnknown";
}

const char *hipGetErrorString(int status) {
    return status == 700 ? "an illegal memory access was encountered" : "unknown error";
}

/* -- for tests ---------------------------------------------------------------------------- */

int fakeSynchronized(void) { return synchronized; }
void fakeFail(int status) { failure = status; }
